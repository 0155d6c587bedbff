"""A small SQuAD: capitals, and who lives in them."""

import json
from pathlib import Path
from typing import Any

CITIES = ("Oslo", "Paris", "Rome", "Lima", "Cairo", "Dublin", "Quito", "Accra", "Hanoi", "Sofia")


def questions(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows as the hub's data set has them: a paragraph for every two questions."""
    rows = []
    for number in range(first, first + count):
        city, place = CITIES[number // 2 % len(CITIES)], number // 2
        context = f"The town of {city} number {place} is old. Ann {place} lives in it."
        who = number % 2
        answer = f"Ann {place}" if who else f"{city} number {place}"
        rows.append(
            {
                "id": f"q{number}",
                "title": city,
                "context": context,
                "question": f"Who lives in {city}?" if who else "Which town is old?",
                "answers": {"text": [answer, answer.split(maxsplit=1)[0]], "answer_start": [context.index(answer)] * 2},
            }
        )
    return rows


def nested(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same as the official files have it."""
    articles: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        asked = {"id": row["id"], "question": row["question"], "answers": answers}
        articles.setdefault(row["title"], {}).setdefault(row["context"], []).append(asked)
    data = []
    for title, paragraphs in articles.items():
        whole = [{"context": context, "qas": asked} for context, asked in paragraphs.items()]
        data.append({"title": title, "paragraphs": whole})
    return {"version": "1.1", "data": data}


def write_squad(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text(json.dumps(nested(rows)))
    return file

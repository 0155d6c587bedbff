"""Question answering in SQuAD's format: its files as rows, and its official scores of an answer.

Rajpurkar et al. 2016, arXiv 1606.05250, with the rules of its evaluate-v1.1.py.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from blackbox.settings import DataSettings, Source
from blackbox.sources import check_text, numbers, read_rows

Row = dict[str, Any]


def read_questions(source: Source, settings: DataSettings, base: Path, place: str) -> list[Row]:
    """A row per question: the file's columns, `answers` (all texts) and `output` (the first), which is learnt.

    From a SQuAD file (JSON: data, paragraphs, qas), or rows with the columns of the hub's data set. Raises InputError.
    """
    rows = _nested(source, base, place)
    rows = read_rows(source, base, place) if rows is None else rows
    column = settings.columns.get("answers", "answers")
    if column not in rows[0]:
        raise InputError(f"{place}: {source.path} has no column {column}, only {', '.join(rows[0])}")
    for name in ("context", "question"):
        mine = settings.columns.get(name, name)
        blank = [number for number, row in enumerate(rows, 1) if mine in row and not _filled(row[mine])]
        if blank:
            raise InputError(f"{place}: {mine} of {source.path} is empty or no text in row {numbers(blank)}")
    answers = [_answers(row[column]) for row in rows]
    wrong = [number for number, each in enumerate(answers, 1) if each is None]
    if wrong:
        shape = '{"text": [...], "answer_start": [...]} with texts that are not empty'
        raise InputError(f"{place}: {column} of {source.path} is not {shape} in row {numbers(wrong)}")
    unanswered = [number for number, each in enumerate(answers, 1) if not each]
    if unanswered:
        raise InputError(
            f"{place}: {source.path} has no answer in row {numbers(unanswered)}: questions that cannot be answered "
            "(SQuAD 2.0) are not offered"
        )
    return [{**row, "answers": each, "output": each[0]} for row, each in zip(rows, answers, strict=True) if each]


def normalize(text: str) -> str:
    """Lower case, without punctuation, the articles a, an, the, and superfluous spaces, in this order."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(answer: str, gold: str) -> float:
    """1 where both are the same once normalized, else 0."""
    return float(normalize(answer) == normalize(gold))


def overlap(answer: str, gold: str) -> float:
    """F1 of the words that both have, each as often as both have it."""
    mine, its = normalize(answer).split(), normalize(gold).split()
    same = (Counter(mine) & Counter(its)).total()
    if same == 0:  # two empty answers too
        return 0.0
    precision, recall = same / len(mine), same / len(its)
    return 2 * precision * recall / (precision + recall)


def score(answers: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 in percent: of each question the best over its gold answers, then the mean."""

    def mean(measure: Callable[[str, str], float]) -> float:
        best = [max(measure(answer, each) for each in its) for answer, its in zip(answers, gold, strict=True)]
        return 100.0 * sum(best) / len(best)

    return {"exact_match": mean(exact), "f1": mean(overlap)}


def _nested(source: Source, base: Path, place: str) -> list[Row] | None:
    """The questions of a file in SQuAD's own shape, sliced as asked for; None where it has another."""
    file = source.file(base)
    if file is None or file.suffix.lower() != ".json":
        return None
    check_text(file, source.file_type, place)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None  # JSON lines, or a mistake that `datasets` has words for
    if not isinstance(content, dict) or "data" not in content:
        return None
    rows: list[Row] = []
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                about = {"title": article.get("title", ""), "context": paragraph["context"]}
                for asked in paragraph["qas"]:
                    one = {name: asked[name] for name in ("question", "answers")}
                    rows.append({"id": asked.get("id", ""), **about, **one})
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"has no {error}" if isinstance(error, KeyError) else "is of another shape"
        raise InputError(
            f"{place}: {file}: what follows row {len(rows)} {missing}: SQuAD's files have data, in it paragraphs with "
            "context and qas, in these question and answers"
        ) from None
    rows = rows[_slice(source, len(rows), place)]
    if not rows:
        raise InputError(f"{place}: no questions in {file} ({source.split})")
    return rows


def _slice(source: Source, count: int, place: str) -> slice:
    """What a split such as train[:10%] takes of so many rows."""
    from datasets import ReadInstruction  # noqa: PLC0415 - takes 0.6 s

    try:
        (part,) = ReadInstruction.from_spec(source.split).to_absolute({"train": count})
    except (ValueError, AssertionError) as error:
        known = "a file has only train, or a slice of it, as train[:3000]"
        raise InputError(f"{place}: cannot read split {source.split!r} of {source.path} ({known}): {error}") from None
    return slice(part.from_, part.to)


def _answers(value: Any) -> list[str] | None:
    """The texts of a question's answers, in both shapes that they come in; None where they are none."""
    try:
        texts = value["text"] if isinstance(value, dict) else [each["text"] for each in value]
    except (KeyError, TypeError):
        return None
    good = isinstance(texts, list) and all(isinstance(text, str) and text.strip() for text in texts)
    return list(texts) if good else None


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())

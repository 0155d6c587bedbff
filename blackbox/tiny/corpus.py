"""Pre-training text: short paragraphs of a grammar's English about the world of words.py.

It holds the facts and the skills that the instruction data asks for (opposites, plurals, sums, lists, who did what
where), as prose and as drills of a school class, whose questions may be the same. It never shows the Alpaca layout: to
answer in it, and to stop after the answer, is what fine-tuning has to bring about.
"""

from collections.abc import Callable, Iterator
from random import Random

from blackbox.tiny.prose import (
    facts,
    kinds,
    lessons,
    letters,
    lists,
    notes,
    numbers,
    odd_one,
    opposites,
    plurals,
    questions,
    story,
    sums,
    tenses,
)
from blackbox.tiny.tasks import TASKS
from blackbox.tiny.words import PEOPLE

# Layouts of a drill: what stands before the task, between task and question, before and after the answer.
LAYOUTS = [
    ('The teacher said: "', " ", '" And {pupil} answered: "', '"'),
    ("Question: ", " ", "\nAnswer: ", ""),
    ("", "\n", "\n", ""),
    ("", " ", " -> ", ""),
    ("Task: ", " Given: ", " Result: ", ""),
    ("* ", "\n* ", "\n* {pupil}: ", ""),
    ("{pupil} had a task. ", " The text was:\n", "\n\n{pupil} wrote:\n", ""),
    ("Exercise\n\n", "\n\n", "\n\nSolution of {pupil}\n\n", ""),
]


def drill(rng: Random) -> str:
    """Questions and answers of one task, all in one layout."""
    task, names = rng.choice(list(TASKS.items()))
    start, link, then, end = (part.replace("{pupil}", rng.choice(PEOPLE)) for part in rng.choice(LAYOUTS))
    said = []
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(names)
        question, answer = task(rng)
        asked = name.replace("{}", question) if "{}" in name else name + link + question
        said.append(start + asked + then + answer + end)
    return "\n".join(said)


PARAGRAPHS: dict[Callable[[Random], str], int] = {
    story: 6,
    tenses: 4,
    opposites: 4,
    kinds: 4,
    odd_one: 4,
    plurals: 3,
    sums: 5,
    numbers: 5,
    lists: 6,
    letters: 5,
    facts: 4,
    questions: 5,
    notes: 2,
    lessons: 1,
    drill: 40,
}


def documents(seed: int) -> Iterator[str]:
    """Endless paragraphs, the same ones for the same seed."""
    rng = Random(seed)
    makers, weights = list(PARAGRAPHS), list(PARAGRAPHS.values())
    while True:
        paragraphs = rng.choices(makers, weights, k=rng.randint(1, 3))
        yield "\n".join(make(rng) for make in paragraphs)

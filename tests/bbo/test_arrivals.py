"""Answers count in the order in which their blocks are complete."""

import json
from collections.abc import Iterator
from pathlib import Path

from bbo.arrivals import Arrivals
from bbo.runlog import RunLog


def arrivals(lines: list[dict[str, object]], folder: Path) -> Iterator[list[int]]:
    """The numbers of the complete answers after each line."""
    file = folder / "log.jsonl"
    log = RunLog(file)
    found = Arrivals(log)
    for line in lines:
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        log.refresh()
        yield [answer.number for answer in found.complete()]


def test_answers_count_when_their_block_is_complete(tmp_path: Path) -> None:
    def ask(number: int, block: int, native: bool = False) -> dict[str, object]:
        return {"ask": number, "point": [1.0], "key": "k", "block": block, "time": 0.0, "native": native}

    def answer(number: int) -> dict[str, object]:
        return {"answer": number, "values": [1.0], "source": "trained", "time": 0.0}

    lines = [ask(1, 1), ask(2, 1), ask(3, 3, native=True), answer(2), ask(4, 4), answer(3), answer(4), answer(1)]
    assert list(arrivals(lines, tmp_path)) == [[], [], [], [], [], [], [4], [4, 1, 2]]

"""The log survives torn writes and concurrent writers."""

import math
import threading
import time
from pathlib import Path

import pytest

from bbo.errors import MachineError
from bbo.runlog import Answer, RunLog, Stop

A, B, C = (1.0, 0.1), (2.0, 1 / 3), (3.0, -1e-300)


def test_asks_and_answers_read_back(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    with log.locked():
        asks = log.ask([A, B], ["a", "b"])
    log.answer(Answer(1, (0.5, math.inf), "trained", 1.0, "job"))
    log.answer(Answer(2, None, "declined", 2.0))
    log.stop(Stop("machine", "disk full", "s"))
    again = RunLog(tmp_path / "log.jsonl")
    assert again.asks == asks == log.asks
    assert again.answers == log.answers
    assert again.answers[1].values == (0.5, math.inf)
    assert again.answers[2].values is None
    assert again.stopped == Stop("machine", "disk full", "s")
    assert [ask.block for ask in again.asks] == [1, 1]


def test_a_torn_tail_is_cut(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    with log.locked():
        log.ask([A], ["a"])
    whole = log.path.read_bytes()
    for cut in (1, 5, len(whole) - 1):
        log.path.write_bytes(whole + whole[:cut])
        torn = RunLog(log.path)
        assert len(torn.asks) == 1
        torn.answer(Answer(1, (1.0,), "trained", 0.0))
        assert len(RunLog(log.path).asks) == 1
        assert len(RunLog(log.path).answers) == 1


def test_two_writers_see_each_other(tmp_path: Path) -> None:
    one, two = RunLog(tmp_path / "log.jsonl"), RunLog(tmp_path / "log.jsonl")
    with one.locked():
        one.ask([A], ["a"])
    with two.locked():
        assert two.ask([B], ["b"])[0].number == 2
    one.refresh()
    assert [ask.point for ask in one.asks] == [A, B]


def test_a_writer_that_waited_cuts_the_tail_that_was_torn_meanwhile(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    with log.locked():
        log.ask([A], ["a"])
    entered = threading.Event()

    def answer() -> None:
        entered.set()
        RunLog(log.path).answer(Answer(1, (1.0,), "trained", 0.0))

    thread = threading.Thread(target=answer)
    with log.locked():
        thread.start()
        entered.wait()
        time.sleep(0.2)
        with log.path.open("ab") as file:
            file.write(b'{"answer": 1, "val')
    thread.join()
    assert RunLog(log.path).answers[1].values == (1.0,)


def test_a_damaged_line_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("garbage\n")
    with pytest.raises(MachineError, match="damaged line: garbage"):
        RunLog(tmp_path / "log.jsonl")


def test_forgetting_ends_the_record(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    with log.locked():
        log.ask([A, B], ["a", "b"])
    log.answer(Answer(1, (1.0,), "trained", 0.0))
    log.answer(Answer(2, (2.0,), "failed", 0.0))
    log.forget(2)
    again = RunLog(log.path)
    assert ([ask.number for ask in again.asks], list(again.answers)) == ([1], [1])
    with again.locked():
        assert again.ask([C], ["c"])[0].number == 2


def test_a_surrogates_asks_are_no_evaluations(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    with log.locked():
        log.ask([A], ["a"])
        log.ask([B], ["b"], fidelity={"epochs_fraction": 0.5}, surrogate=True)
    assert "fidelity" not in log.path.read_text().splitlines()[0]
    again = RunLog(log.path)
    assert (again.asks, again.replayed) == (log.asks, log.asks)
    assert [ask.point for ask in again.driven] == [A]
    assert again.asks[1].fidelity == {"epochs_fraction": 0.5}

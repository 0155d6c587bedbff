"""The log survives torn writes; a replay must repeat the record."""

import math
from pathlib import Path

import pytest

from bbo.runlog import Answer, Diverged, RunLog, Session, Stop, Unanswered, take

A, B, C = (1.0, 0.1), (2.0, 1 / 3), (3.0, -1e-300)


def test_asks_and_answers_read_back(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    with log.locked():
        asks = log.ask([A, B], ["a", "b"])
    log.answer(Answer(1, (0.5, math.inf), "trained", 1.0, "job"))
    log.answer(Answer(2, None, "declined", 2.0))
    log.stop(Stop("machine", "disk full"))
    again = RunLog(tmp_path / "log.jsonl")
    assert again.asks == asks == log.asks
    assert again.answers == log.answers
    assert again.answers[1].values == (0.5, math.inf)
    assert again.answers[2].values is None
    assert again.stopped == Stop("machine", "disk full")
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


def test_replay_repeats_the_record_and_goes_on(tmp_path: Path) -> None:
    log, cursor = RunLog(tmp_path / "log.jsonl"), tmp_path / "cursor"
    take(log, cursor, Session("first"), [A, B], ["a", "b"])
    for number in (1, 2):
        log.answer(Answer(number, (1.0,), "trained", 0.0))
    again = Session("second")
    assert [a.number for a in take(log, cursor, again, [A], ["a"])] == [1]
    assert [a.number for a in take(log, cursor, again, [B, C], ["b", "c"])] == [2, 3]
    assert len(log.asks) == 3


def test_another_point_or_key_is_a_divergence(tmp_path: Path) -> None:
    log, cursor = RunLog(tmp_path / "log.jsonl"), tmp_path / "cursor"
    take(log, cursor, Session("first"), [A], ["a"])
    with pytest.raises(Diverged, match="now"):
        take(log, cursor, Session("second"), [B], ["b"])
    with pytest.raises(Diverged, match="key a in the record and z now"):
        take(log, cursor, Session("second"), [A], ["z"])
    assert len(log.asks) == 1


def test_an_unanswered_call_asks_for_a_replay(tmp_path: Path) -> None:
    log, cursor = RunLog(tmp_path / "log.jsonl"), tmp_path / "cursor"
    session = Session("first")
    take(log, cursor, session, [A], ["a"])
    with pytest.raises(Unanswered):
        take(log, cursor, session, [B], ["b"])
    log.answer(Answer(1, (1.0,), "trained", 0.0))
    take(log, cursor, session, [B], ["b"])


def test_a_call_that_left_no_trace_is_seen_in_nomads_history(tmp_path: Path) -> None:
    log, cursor, history = RunLog(tmp_path / "log.jsonl"), tmp_path / "cursor", tmp_path / "history"
    session = Session("first", history=history)
    take(log, cursor, session, [A], ["a"])
    log.answer(Answer(1, (1.0,), "trained", 0.0))
    history.write_text("1 0.1 1.0\n2 0.3 \n")  # NOMAD notes a second evaluation that we never saw
    with pytest.raises(Unanswered, match="noted 2 evaluations, the blackbox answered 1"):
        take(log, cursor, session, [C], ["c"])


def test_calls_in_any_order_are_matched_by_point(tmp_path: Path) -> None:
    log, cursor = RunLog(tmp_path / "log.jsonl"), tmp_path / "cursor"
    for point, key in ((A, "a"), (B, "b")):
        take(log, cursor, Session("first", in_order=False), [point], [key])
    again = Session("second", in_order=False)
    assert [a.number for a in take(log, cursor, again, [B, C], ["b", "c"])] == [2, 3]
    assert [a.number for a in take(log, cursor, again, [A], ["a"])] == [1]

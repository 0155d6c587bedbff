"""A replay must repeat the record, and NOMAD must have heard what it was told."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bbo.index import Index
from bbo.replay import Diverged, Unanswered, misheard, take
from bbo.run import Run
from bbo.runlog import Answer, Ask, RunLog
from bbo.session import Session, Superseded, open_session
from bbo.space import Point
from bbo.store import Store

A, B, C = (1.0, 0.1), (2.0, 1 / 3), (3.0, -1e-300)
KEYS = {A: "a", B: "b", C: "c"}


class Nomad:
    """One session, with the history file that NOMAD would write."""

    def __init__(self, folder: Path, in_order: bool = True) -> None:
        self.run = Run(folder)
        self.session: Session = open_session(self.run, self.run.log(), Store(folder), None, in_order)

    @property
    def index(self) -> Index:
        """As each call of the blackbox makes its own."""
        return Index(self.run, self.session)

    def take(self, points: Sequence[Point], keys: Mapping[Point, str] = KEYS) -> list[Ask]:
        recorded = take(self.run, self.index, self.session, points, [keys[point] for point in points])
        return [known.ask for known in recorded]

    def misheard(self) -> str | None:
        index = self.index
        with index.locked():
            return misheard(self.run, index, self.session)

    def hear(self, point: Point, words: str) -> None:
        with self.run.history.open("a") as file:
            file.write(f"  {point[0]:<24} {point[1]:<24} {words}\n")

    def tell(self, ask: Ask, value: float = 1.0) -> None:
        self.index.answer(Answer(ask.number, (value,), "trained", 0.0))
        self.hear(ask.point, "Inf" if value == float("inf") else repr(value))


def test_replay_repeats_the_record_and_goes_on(tmp_path: Path) -> None:
    first = Nomad(tmp_path)
    for ask in first.take([A, B]):
        first.tell(ask, float("inf"))
    again = Nomad(tmp_path)
    assert [a.number for a in again.take([A])] == [1]
    again.hear(A, "Inf")
    assert [a.number for a in again.take([B, C])] == [2, 3]
    assert len(again.run.log().asks) == 3


def test_another_point_or_key_is_a_divergence(tmp_path: Path) -> None:
    Nomad(tmp_path).take([A])
    with pytest.raises(Diverged, match="now"):
        Nomad(tmp_path).take([B])
    with pytest.raises(Diverged, match="key a in the record and z now"):
        Nomad(tmp_path).take([A], {A: "z"})
    assert len(RunLog(tmp_path / "log.jsonl").asks) == 1


def test_an_orphan_of_an_older_session_changes_nothing(tmp_path: Path) -> None:
    orphan = Nomad(tmp_path)
    Nomad(tmp_path)
    with pytest.raises(Superseded):
        orphan.take([A])
    assert RunLog(tmp_path / "log.jsonl").asks == []


def test_a_call_that_died_before_it_answered(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    nomad.take([A])
    with pytest.raises(Unanswered, match="before it answered"):
        nomad.take([B])


def test_a_call_that_died_between_log_and_print(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    (ask,) = nomad.take([A])
    nomad.index.answer(Answer(ask.number, (1.0,), "trained", 0.0))
    nomad.hear(A, "")
    with pytest.raises(Unanswered, match="before NOMAD read its answer"):
        nomad.take([B])


def test_a_call_that_left_no_trace(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    nomad.tell(*nomad.take([A]))
    nomad.hear(B, "1.0")
    with pytest.raises(Unanswered, match="noted 2 evaluations, the blackbox answered 1"):
        nomad.take([C])


def test_a_call_that_died_between_print_and_end(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    nomad.run.nomad_log.write_text("BBE OBJ\n")
    nomad.tell(*nomad.take([A]))
    nomad.tell(*nomad.take([B]))
    with nomad.run.nomad_log.open("a") as log:
        log.write("Warning: Evaluator returned exit status 9 for point: ( 2 0.3333 )\n")
    with pytest.raises(Unanswered, match="died as it ended"):
        nomad.take([C])


def test_another_value_than_was_told(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    (ask,) = nomad.take([A])
    nomad.index.answer(Answer(ask.number, (1.0,), "trained", 0.0))
    nomad.hear(A, "2.0")
    assert nomad.misheard() == "NOMAD noted 2.0 for evaluation 1"


def test_declined_points_are_heard_as_declined(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    (ask,) = nomad.take([A])
    nomad.index.answer(Answer(ask.number, None, "declined", 0.0))
    nomad.hear(A, "declined declined")
    assert nomad.misheard() is None


def test_calls_in_any_order_are_matched_by_point(tmp_path: Path) -> None:
    first = Nomad(tmp_path, in_order=False)
    first.take([A])
    first.take([B])
    again = Nomad(tmp_path, in_order=False)
    assert [a.number for a in again.take([B, C])] == [2, 3]
    assert [a.number for a in again.take([A])] == [1]
    again.hear(A, "")
    with pytest.raises(Unanswered):
        again.take([B])

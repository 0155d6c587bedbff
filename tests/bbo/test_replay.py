"""A replay must repeat the record, and NOMAD must have heard what it was told."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bbo.index import Index
from bbo.replay import Diverged, Unanswered, heard, misheard, surrogate_noted, take
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
        self.session: Session = open_session(self.run, self.run.log(), Store(folder), None, in_order=in_order)

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


def call_surrogate(nomad: Nomad, points: Sequence[Point], answered: bool = True, heard_by_nomad: bool = True) -> None:
    """One call of the surrogate, as NOMAD's shell and the blackbox leave their traces."""
    with nomad.run.surrogate_calls.open("a") as file:
        file.write(f"{nomad.session.name}\n")
    keys = [f"low {KEYS[point]}" for point in points]
    for known in take(nomad.run, nomad.index, nomad.session, points, keys, {"epochs_fraction": 0.5}, surrogate=True):
        if answered:
            nomad.index.answer(Answer(known.ask.number, (0.5,), "trained", 0.0))
    if heard_by_nomad:
        heard(nomad.run)


def test_a_surrogate_is_replayed_but_no_evaluation(tmp_path: Path) -> None:
    for _ in range(2):
        nomad = Nomad(tmp_path)
        nomad.tell(*nomad.take([A]))
        call_surrogate(nomad, [B, C])
        nomad.tell(*nomad.take([C]))
        assert nomad.misheard() is None
    log = nomad.run.log()
    assert [(ask.number, ask.point) for ask in log.driven] == [(1, A), (4, C)]
    assert [ask.fidelity for ask in log.replayed] == [{}, {"epochs_fraction": 0.5}, {"epochs_fraction": 0.5}, {}]
    nomad.hear(B, "1.0")
    assert nomad.misheard() == "NOMAD noted 3 evaluations, the blackbox answered 2"


def test_in_any_order_a_surrogates_ask_is_another_one(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path, in_order=False)
    call_surrogate(nomad, [A])
    assert [ask.number for ask in nomad.take([A])] == [2]
    again = Nomad(tmp_path, in_order=False)
    assert [ask.number for ask in again.take([A])] == [2]
    call_surrogate(again, [A])
    assert len(again.run.log().asks) == 2


@pytest.mark.parametrize("answered", [False, True])
def test_a_surrogate_that_died_is_noticed(tmp_path: Path, answered: bool) -> None:
    nomad = Nomad(tmp_path)
    nomad.tell(*nomad.take([A]))
    call_surrogate(nomad, [B], answered, heard_by_nomad=False)
    assert nomad.misheard()
    with pytest.raises(Unanswered, match="died before"):
        nomad.take([C])
    with pytest.raises(Unanswered, match="died before"):
        call_surrogate(nomad, [C])


def test_a_surrogate_that_left_no_trace_but_the_shells(tmp_path: Path) -> None:
    nomad = Nomad(tmp_path)
    nomad.tell(*nomad.take([A]))
    nomad.run.surrogate_calls.write_text(f"older\n{nomad.session.name}\n")
    with pytest.raises(Unanswered, match="died before NOMAD read its answer"):
        nomad.take([C])


@pytest.mark.parametrize("quote", ['"', "'"])
def test_the_shell_notes_a_surrogates_calls(tmp_path: Path, quote: str) -> None:
    nomad = Nomad(tmp_path)
    noted = surrogate_noted(nomad.run, nomad.session, f"SURROGATE_EXE {quote}$python3 x.py{quote}")
    name, file = nomad.session.name, nomad.run.surrogate_calls.absolute()
    assert noted == f'SURROGATE_EXE "$echo ${name} $>> ${file} $; $BBO_SURROGATE=1 $python3 x.py"'
    assert surrogate_noted(nomad.run, nomad.session, "BB_EXE '$python3'") == "BB_EXE '$python3'"

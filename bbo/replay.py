"""Replay: a fresh NOMAD is led through the record, and held against it at every call of the blackbox.

The calls of a session meet the recorded asks at a cursor, get the recorded answers and go on live where the record
ends. A blackbox that died is noticed by what NOMAD itself noted in its history file: NOMAD takes an unanswered point
for a failed one, and everything it proposes from then on would be wrong. What agreed at one call is not read again at
the next: NOMAD only appends to its history, and so do we to the log.
"""

from collections.abc import Sequence
from pathlib import Path

from bbo.index import Index, Recorded
from bbo.points import DECLINED, format_answer
from bbo.run import Run
from bbo.runlog import Answer
from bbo.session import Session
from bbo.space import Point

KILLED = "Evaluator returned exit status"
"""What NOMAD's log says of a call that was killed, also where all of its answer was read and noted before."""


class Diverged(Exception):
    """A replayed optimizer asked for something else than the record says."""


class Unanswered(Exception):
    """NOMAD does not know an answer that the record has: what it believes is wrong, replay it."""


def take(run: Run, index: Index, session: Session, points: Sequence[Point], keys: Sequence[str]) -> list[Recorded]:
    """The asks of a block that NOMAD hands over: repeated ones from the record, new ones appended.

    Raises Superseded, Unanswered, or Diverged when the record says otherwise.
    """
    with index.locked():
        if (wrong := misheard(run, index, session)) is not None:
            raise Unanswered(wrong)
        # Where calls arrive in any order, a point names its ask: NOMAD's own cache asks for no point twice.
        recorded = _expected(index, points, keys) if session.in_order else [index.of(point) for point in points]
        new, places = [i for i, known in enumerate(recorded) if known is None], index.places()
        asks = index.ask([points[i] for i in new], [keys[i] for i in new]) if new else []
        fresh = (Recorded(ask, place, None) for place, ask in enumerate(asks, start=places))
        index.state.done += len(points)
        return [known or next(fresh) for known in recorded]


def misheard(run: Run, index: Index, session: Session) -> str | None:
    """In what NOMAD's own notes differ from what this session was told; None when they agree.

    Call it under `index.locked`; what agrees is remembered.
    """
    state, first = index.state, index.at(0, 1)
    said, state.said = _lines(run.nomad_log, state.said)
    lines, end = _lines(run.history, state.history)
    # After its point, each line of the history has the words that NOMAD read.
    noted = [line.split()[len(first[0].ask.point) if first else 0 :] for line in lines]
    taken = index.at(state.heard, state.done - state.heard) if session.in_order else []
    if any(each.answer is None for each in taken):
        return "a call of the blackbox died before it answered"
    if any(KILLED in line for line in said):
        return "a call of the blackbox died as it ended, and NOMAD dropped its answer"
    if any(not words for words in noted):
        return "a call of the blackbox died before NOMAD read its answer"
    if session.in_order and len(noted) != len(taken):
        return f"NOMAD noted {state.heard + len(noted)} evaluations, the blackbox answered {state.done}"
    for each, words in zip(taken, noted, strict=False):
        assert each.answer is not None
        if words != _told(each.answer, len(words)):
            return f"NOMAD noted {' '.join(words)} for evaluation {each.ask.number}"
    state.heard, state.history = state.done, end
    return None


def _expected(index: Index, points: Sequence[Point], keys: Sequence[str]) -> list[Recorded | None]:
    recorded = index.at(index.state.done, len(points))
    for ask, point, key in zip((known.ask for known in recorded), points, keys, strict=False):
        if ask.point != point:
            raise Diverged(f"evaluation {ask.number} was at {ask.point} in the record, now {point} is asked for")
        if ask.key != key:
            raise Diverged(
                f"evaluation {ask.number} at {point} has the key {ask.key} in the record and {key} now: "
                "model, data, training settings or the trainer changed since"
            )
    return [*recorded, *[None] * (len(points) - len(recorded))]


def _lines(path: Path, start: int) -> tuple[list[str], int]:
    """The whole lines of a file from byte `start` on, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            whole, newline, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], start
    return whole.decode(errors="replace").splitlines(), start + len(whole) + len(newline)


def _told(answer: Answer, count: int) -> list[str]:
    return [DECLINED] * count if answer.values is None else format_answer(answer.values, len(answer.values)).split()

"""Replay: a fresh optimizer is led through the record, and held against it at every call of the blackbox.

The calls of a session meet the recorded asks at a cursor, get the recorded answers and go on live where the record
ends. A blackbox that died is noticed by what NOMAD itself noted in its history file: NOMAD takes an unanswered point
for a failed one, and everything it proposes from then on would be wrong. Of its surrogate it notes nothing there: each
call of it leaves a line in a file when it begins, and clears the file once NOMAD has the answer. What agreed at one
call is not read again at the next: NOMAD only appends to its history, and so do we to the log.
"""

import re
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bbo.index import Index, Recorded
from bbo.points import DECLINED, format_answer
from bbo.run import Run
from bbo.runlog import Answer
from bbo.session import Numbers, Session
from bbo.space import Point

KILLED = "Evaluator returned exit status"
"""What NOMAD's log says of a call that was killed, also where all of its answer was read and noted before."""

KILLED_BY = {text for number in signal.valid_signals() if (text := signal.strsignal(number))}
"""What NOMAD's shell says of it in the same log, and at once: NOMAD's own line comes late where it is about a block."""

WAIT = 0.01
"""Seconds between two looks for the asks of a call that was started before."""

SURROGATE = "BBO_SURROGATE"
"""Set to 1 for a driven blackbox that is called as SURROGATE_EXE."""


class Diverged(Exception):
    """A replayed optimizer asked for something else than the record says."""


class Unanswered(Exception):
    """NOMAD does not know an answer that the record has: what it believes is wrong, replay it."""


def surrogate_noted(run: Run, session: Session, statement: str) -> str:
    """The same statement; of SURROGATE_EXE, so that NOMAD's shell notes each call before it runs the command."""
    note = f"$echo ${session.name} $>> ${run.surrogate_calls.absolute()} $;"
    return re.sub(r"""^(SURROGATE_EXE) ["']?(.*?)["']?$""", rf'\1 "{note} ${SURROGATE}=1 \2"', statement)


def heard(run: Run) -> None:
    """Note that NOMAD has the answer of the surrogate's call; the process must end at once."""
    run.surrogate_calls.unlink(missing_ok=True)


def take(
    run: Run,
    index: Index,
    session: Session,
    points: Sequence[Point],
    keys: Sequence[str],
    fidelity: Mapping[str, float] = {},
    surrogate: bool = False,
) -> list[Recorded]:
    """The asks of a block that NOMAD hands over: repeated ones from the record, new ones appended.

    Raises Superseded, Unanswered, or Diverged when the record says otherwise.
    """
    with index.locked():
        if (wrong := misheard(run, index, session, surrogate)) is not None:
            raise Unanswered(wrong)
        if session.in_order:
            recorded = _expected(index, index.state.done, points, keys)
        else:  # calls arrive in any order; NOMAD's own cache asks for no point twice, so a point names its ask
            recorded = [index.of(point, surrogate) for point in points]
        new, end = [i for i, known in enumerate(recorded) if known is None], index.places()
        if new:
            index.ask([points[i] for i in new], [keys[i] for i in new], fidelity=fidelity, surrogate=surrogate)
        fresh = iter(index.at(end, len(new)))
        index.state.done += len(points)
        return [known or next(fresh) for known in recorded]


def take_numbered(
    index: Index, numbers: Numbers, points: Sequence[Point], keys: Sequence[str], fidelity: Mapping[str, float] = {}
) -> list[Recorded]:
    """The asks of a call under bbo/loop.py: from the record where they are in it, the others appended to it.

    Calls in flight write their asks in the order of their numbers: each waits for those before it. Raises Superseded,
    or Diverged when the record says otherwise.
    """
    while True:
        with index.locked():
            if index.places() >= numbers.first - 1:
                recorded = _expected(index, numbers.first - 1, points, keys)
                new = slice(sum(known is not None for known in recorded), None)
                if points[new]:
                    index.ask(points[new], keys[new], numbers.parents[new], fidelity=fidelity, told=numbers.told)
                return index.at(numbers.first - 1, len(points))
        time.sleep(WAIT)


def misheard(run: Run, index: Index, session: Session, surrogate: bool = False) -> str | None:
    """In what NOMAD's own notes differ from what this session was told; None when they agree.

    `surrogate`: a call of the surrogate is under way. Call it under `index.locked`; what agrees is remembered.
    """
    state, first = index.state, index.at(0, 1)
    said, state.said = _lines(run.nomad_log, state.said)
    lines, end = _lines(run.history, state.history)
    # After its point, each line of the history has the words that NOMAD read.
    noted = [line.split()[len(first[0].ask.point) if first else 0 :] for line in lines]
    taken = index.at(state.heard, state.done - state.heard) if session.in_order else []
    if any(each.answer is None for each in taken):
        return "a call of the blackbox died before it answered"
    if any(not words for words in noted) or (session.in_order and _unheard(run, session) > surrogate):
        return "a call of the blackbox died before NOMAD read its answer"
    if any(KILLED in line or line.removesuffix(" (core dumped)") in KILLED_BY for line in said):
        return "a call of the blackbox died as it ended, and NOMAD dropped its answer"
    evaluations = [each for each in taken if not each.ask.surrogate]
    if session.in_order and len(noted) != len(evaluations):
        counts = state.noted + len(noted), state.noted + len(evaluations)
        return f"NOMAD noted {counts[0]} evaluations, the blackbox answered {counts[1]}"
    for each, words in zip(evaluations, noted, strict=False):
        assert each.answer is not None
        if words != _told(each.answer, len(words)):
            return f"NOMAD noted {' '.join(words)} for evaluation {each.ask.number}"
    state.heard, state.history, state.noted = state.done, end, state.noted + len(noted)
    return None


def _expected(index: Index, place: int, points: Sequence[Point], keys: Sequence[str]) -> list[Recorded | None]:
    recorded = index.at(place, len(points))
    for ask, point, key in zip((known.ask for known in recorded), points, keys, strict=False):
        if ask.point != point:
            raise Diverged(f"evaluation {ask.number} was at {ask.point} in the record, now {point} is asked for")
        if ask.key != key:
            raise Diverged(
                f"evaluation {ask.number} at {point} has the key {ask.key} in the record and {key} now: "
                "model, data, training settings or the trainer changed since"
            )
    return [*recorded, *[None] * (len(points) - len(recorded))]


def _unheard(run: Run, session: Session) -> int:
    """Calls of the surrogate whose answer NOMAD may not have; those of another session count for nothing."""
    try:
        return run.surrogate_calls.read_text().split().count(session.name)
    except FileNotFoundError:
        return 0


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

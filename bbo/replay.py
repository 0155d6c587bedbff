"""Replay: a fresh NOMAD is led through the record, and held against it at every call of the blackbox.

A *session* is one start of NOMAD on a run. Its calls meet the recorded asks at a cursor, get the recorded answers and
go on live where the record ends. A blackbox that died is noticed by what NOMAD itself noted in its history file: NOMAD
takes an unanswered point for a failed one, and everything it proposes from then on would be wrong. Of its surrogate it
notes nothing: each call of it leaves a line in a file when it begins, and clears the file once NOMAD has the answer.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bbo.points import DECLINED, format_answer
from bbo.run import Run
from bbo.runlog import Answer, Ask, RunLog
from bbo.space import Point
from bbo.store import Store, write_json

ENVIRONMENT = "BBO_SESSION"
"""The session that a driven blackbox belongs to."""

SURROGATE = "BBO_SURROGATE"
"""Set to 1 for a driven blackbox that is called as SURROGATE_EXE."""


class Diverged(Exception):
    """A replayed optimizer asked for something else than the record says."""


class Unanswered(Exception):
    """NOMAD does not know an answer that the record has: what it believes is wrong, replay it."""


class Superseded(Exception):
    """Another session was opened since: we are the orphan of a driver that is gone, and must change nothing."""


@dataclass(frozen=True)
class Session:
    """What a driver tells the blackbox of one start of NOMAD; kept in runs/NAME/session.json."""

    name: str
    store: str
    max_bb_eval: int | None
    in_order: bool
    """False for a NOMAD with several calls in flight."""


def open_session(run: Run, log: RunLog, store: Store, max_bb_eval: int | None, in_order: bool) -> Session:
    """Begin a session: the cursor starts at the first ask again, calls of older sessions change nothing any more."""
    session = Session(f"{time.time_ns()}-{os.getpid()}", str(store.root.absolute()), max_bb_eval, in_order)
    with log.locked():
        run.history.unlink(missing_ok=True)
        run.surrogate_calls.unlink(missing_ok=True)
        write_json(run.session_file, asdict(session))
    return session


def read_session(run: Run) -> Session:
    return Session(**json.loads(run.session_file.read_text()))


def surrogate_noted(run: Run, session: Session, statement: str) -> str:
    """The same statement; of SURROGATE_EXE, so that NOMAD's shell notes each call before it runs the command."""
    note = f"$echo ${session.name} $>> ${run.surrogate_calls.absolute()} $;"
    return re.sub(r"""^(SURROGATE_EXE) ["']?(.*?)["']?$""", rf'\1 "{note} ${SURROGATE}=1 \2"', statement)


def heard(run: Run) -> None:
    """Note that NOMAD has the answer of the surrogate's call; the process must end at once."""
    run.surrogate_calls.unlink(missing_ok=True)


def take(
    run: Run,
    log: RunLog,
    session: Session,
    points: Sequence[Point],
    keys: Sequence[str],
    fidelity: Mapping[str, float] = {},
    surrogate: bool = False,
) -> list[Ask]:
    """The asks of a block that NOMAD hands over: repeated ones from the record, new ones appended.

    Raises Superseded, Unanswered, or Diverged when the record says otherwise.
    """
    with log.locked():
        if read_session(run) != session:
            raise Superseded(session.name)
        done = _read_cursor(run, session)
        if (wrong := misheard(run, log, session, surrogate)) is not None:
            raise Unanswered(wrong)
        if session.in_order:
            recorded = _expected(log, done, points, keys)
        else:  # calls arrive in any order; NOMAD's own cache asks for no point twice, so a point names its ask
            by_point = {(ask.point, ask.surrogate): ask for ask in log.replayed}
            recorded = [by_point.get((point, surrogate)) for point in points]
        new = [i for i, ask in enumerate(recorded) if ask is None]
        unknown = [points[i] for i in new], [keys[i] for i in new]
        fresh = iter(log.ask(*unknown, fidelity=fidelity, surrogate=surrogate) if new else [])
        asks = [ask or next(fresh) for ask in recorded]
        write_json(run.cursor_file, {"session": session.name, "done": done + len(points)})
    return asks


def misheard(run: Run, log: RunLog, session: Session, surrogate: bool = False) -> str | None:
    """In what NOMAD's own notes differ from what this session was told; None when they agree.

    `surrogate`: a call of the surrogate is under way.
    """
    taken = log.replayed[: _read_cursor(run, session)]
    noted = list(_noted(run.history, len(taken[0].point) if taken else 0))
    if session.in_order and any(ask.number not in log.answers for ask in taken):
        return "a call of the blackbox died before it answered"
    if any(not words for words in noted) or (session.in_order and _unheard(run, session) > surrogate):
        return "a call of the blackbox died before NOMAD read its answer"
    if not session.in_order:
        return None
    evaluations = [ask for ask in taken if not ask.surrogate]
    if len(noted) != len(evaluations):
        return f"NOMAD noted {len(noted)} evaluations, the blackbox answered {len(evaluations)}"
    for ask, words in zip(evaluations, noted, strict=True):
        if words != _told(log.answers[ask.number], len(words)):
            return f"NOMAD noted {' '.join(words)} for evaluation {ask.number}"
    return None


def _expected(log: RunLog, done: int, points: Sequence[Point], keys: Sequence[str]) -> list[Ask | None]:
    recorded = log.replayed[done : done + len(points)]
    for ask, point, key in zip(recorded, points, keys, strict=False):
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


def _noted(history: Path, dimension: int) -> Iterator[list[str]]:
    """The words NOMAD read for each evaluation: none where the blackbox gave no answer."""
    try:
        lines = history.read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        yield line.split()[dimension:]


def _told(answer: Answer, count: int) -> list[str]:
    return [DECLINED] * count if answer.values is None else format_answer(answer.values, len(answer.values)).split()


def _read_cursor(run: Run, session: Session) -> int:
    """How many asks of this session were taken before; the cursor of another session counts for nothing."""
    try:
        cursor = json.loads(run.cursor_file.read_text())
    except FileNotFoundError:
        return 0
    return int(cursor["done"]) if cursor["session"] == session.name else 0

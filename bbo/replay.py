"""Replay: a fresh NOMAD is led through the record, and held against it at every call of the blackbox.

A *session* is one start of NOMAD on a run. Its calls meet the recorded asks at a cursor, get the recorded answers and
go on live where the record ends. A blackbox that died is noticed by what NOMAD itself noted in its history file: NOMAD
takes an unanswered point for a failed one, and everything it proposes from then on would be wrong.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bbo.points import DECLINED, format_answer
from bbo.run import Run
from bbo.runlog import Answer, Ask, RunLog
from bbo.space import Point
from bbo.store import Store, write_json

ENVIRONMENT = "BBO_SESSION"
"""The session that a driven blackbox belongs to."""


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
        write_json(run.session_file, asdict(session))
    return session


def read_session(run: Run) -> Session:
    return Session(**json.loads(run.session_file.read_text()))


def take(run: Run, log: RunLog, session: Session, points: Sequence[Point], keys: Sequence[str]) -> list[Ask]:
    """The asks of a block that NOMAD hands over: repeated ones from the record, new ones appended.

    Raises Superseded, Unanswered, or Diverged when the record says otherwise.
    """
    with log.locked():
        if read_session(run) != session:
            raise Superseded(session.name)
        done = _read_cursor(run, session)
        if (wrong := misheard(run, log, session)) is not None:
            raise Unanswered(wrong)
        if session.in_order:
            recorded = _expected(log, done, points, keys)
        else:  # calls arrive in any order; NOMAD's own cache asks for no point twice, so a point names its ask
            by_point = {ask.point: ask for ask in log.driven}
            recorded = [by_point.get(point) for point in points]
        new = [i for i, ask in enumerate(recorded) if ask is None]
        fresh = iter(log.ask([points[i] for i in new], [keys[i] for i in new]) if new else [])
        asks = [ask or next(fresh) for ask in recorded]
        write_json(run.cursor_file, {"session": session.name, "done": done + len(points)})
    return asks


def misheard(run: Run, log: RunLog, session: Session) -> str | None:
    """In what NOMAD's own notes differ from what this session was told; None when they agree."""
    taken = log.driven[: _read_cursor(run, session)]
    noted = list(_noted(run.history, len(taken[0].point) if taken else 0))
    if session.in_order and any(ask.number not in log.answers for ask in taken):
        return "a call of the blackbox died before it answered"
    if any(not words for words in noted):
        return "a call of the blackbox died before NOMAD read its answer"
    if not session.in_order:
        return None
    if len(noted) != len(taken):
        return f"NOMAD noted {len(noted)} evaluations, the blackbox answered {len(taken)}"
    for ask, words in zip(taken, noted, strict=True):
        if words != _told(log.answers[ask.number], len(words)):
            return f"NOMAD noted {' '.join(words)} for evaluation {ask.number}"
    return None


def _expected(log: RunLog, done: int, points: Sequence[Point], keys: Sequence[str]) -> list[Ask | None]:
    recorded = log.driven[done : done + len(points)]
    for ask, point, key in zip(recorded, points, keys, strict=False):
        if ask.point != point:
            raise Diverged(f"evaluation {ask.number} was at {ask.point} in the record, now {point} is asked for")
        if ask.key != key:
            raise Diverged(
                f"evaluation {ask.number} at {point} has the key {ask.key} in the record and {key} now: "
                "model, data, training settings or the trainer changed since"
            )
    return [*recorded, *[None] * (len(points) - len(recorded))]


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

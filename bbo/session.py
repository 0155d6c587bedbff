"""A session: one start of an optimizer on a run. Its name tells the calls it makes from those of the dead."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bbo.run import Run
from bbo.runlog import RunLog
from bbo.store import Store, write_json

ENVIRONMENT = "BBO_SESSION"
"""The session that a driven blackbox belongs to."""


ASK, TOLD, PARENTS = "BBO_ASK", "BBO_TOLD", "BBO_PARENTS"


class Superseded(Exception):
    """Another session was opened since: we are the orphan of a driver that is gone, and must change nothing."""


@dataclass(frozen=True)
class Session:
    """What the blackbox is told of one start of an optimizer; kept in runs/NAME/session.json."""

    name: str
    store: str
    max_bb_eval: int | None
    """What is asked for beyond it is declined."""
    in_order: bool
    """False for a NOMAD with several calls in flight."""
    numbered: bool = False
    """Each call is told which asks it is about (bbo/loop.py); else the order of the calls says it (NOMAD)."""
    stopping: str | None = None
    """The stopping rule that takes the place of the experiment's; None: the experiment's own."""


@dataclass(frozen=True)
class Numbers:
    """Which asks a call of a numbered session is about; handed on by environment."""

    first: int
    """Among those of the run's optimizer, from 1."""
    told: int
    """Answers that the optimizer knew when it proposed them."""
    parents: Sequence[int | None] = ()
    """For each, the number of the ask whose training it goes on from; empty: none does."""

    def environment(self) -> dict[str, str]:
        parents = " ".join("-" if parent is None else str(parent) for parent in self.parents)
        return {ASK: str(self.first), TOLD: str(self.told), PARENTS: parents}

    @classmethod
    def ours(cls) -> "Numbers":
        """Of the call that we are."""
        parents = [None if word == "-" else int(word) for word in os.environ[PARENTS].split()]
        return cls(int(os.environ[ASK]), int(os.environ[TOLD]), parents)


def open_session(
    run: Run,
    log: RunLog,
    store: Store,
    max_bb_eval: int | None,
    *,
    in_order: bool = True,
    numbered: bool = False,
    stopping: str | None = None,
) -> Session:
    """Begin a session: its calls start at the first ask again, those of older sessions change nothing any more."""
    name, where = f"{time.time_ns()}-{os.getpid()}", os.path.abspath(store.root)
    session = Session(name, where, max_bb_eval, in_order, numbered, stopping)
    with log.locked():
        run.history.unlink(missing_ok=True)
        run.surrogate_calls.unlink(missing_ok=True)
        write_json(run.session_file, asdict(session))
    return session


def read_session(run: Run) -> Session:
    """The session that is open. Raises FileNotFoundError where none ever was."""
    return Session(**json.loads(run.session_file.read_text()))

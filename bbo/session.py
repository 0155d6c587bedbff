"""A session: one start of NOMAD on a run. Its name tells the calls it makes from those of NOMADs that are gone."""

import json
import os
import time
from dataclasses import asdict, dataclass

from bbo.run import Run
from bbo.runlog import RunLog
from bbo.store import Store, write_json

ENVIRONMENT = "BBO_SESSION"
"""The session that a driven blackbox belongs to."""


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
    stopping: str | None = None
    """The stopping rule, where it is another than the YAML's."""


def open_session(run: Run, log: RunLog, store: Store, max_bb_eval: int | None, in_order: bool) -> Session:
    """Begin a session: its calls start at the first ask again, those of older sessions change nothing any more."""
    session = Session(f"{time.time_ns()}-{os.getpid()}", str(store.root.absolute()), max_bb_eval, in_order)
    with log.locked():
        run.history.unlink(missing_ok=True)
        run.surrogate_calls.unlink(missing_ok=True)
        write_json(run.session_file, asdict(session))
    return session


def read_session(run: Run) -> Session:
    """The session that is open. Raises FileNotFoundError where none ever was."""
    return Session(**json.loads(run.session_file.read_text()))

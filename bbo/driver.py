"""Drive NOMAD on one run: start it, watch the run log, replay it when it died, stop it when told to.

NOMAD's own state is worth nothing here. Whatever happens to a process, a fresh NOMAD is led through the run log to the
same place.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bbo.errors import InputError
from bbo.experiment import Experiment
from bbo.guard import Ended, Guard, Limits, Watch
from bbo.index import Index
from bbo.lifeline import ENVIRONMENT as LIFELINE
from bbo.processes import end, own_python_first
from bbo.replay import misheard, surrogate_noted
from bbo.run import ENVIRONMENT as RUN
from bbo.run import Run
from bbo.runlog import RunLog
from bbo.session import ENVIRONMENT as SESSION
from bbo.session import Session, open_session
from bbo.store import Store

POLL = 0.1
RESTARTS = 2
"""Replays of a NOMAD that died without one new answer; after that the trouble is not an accident."""


@dataclass
class Driver:
    """One run under one NOMAD at a time."""

    run: Run
    experiment: Experiment
    store: Store
    parameters: Sequence[str]
    max_bb_eval: int | None
    in_order: bool
    limits: Limits
    stopping: str | None = None
    """The stopping rule, where it is not the experiment's."""
    log: RunLog = field(init=False)
    _guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.run.log()
        self._guard = Guard(self.run, self.experiment, self.store, self.limits, self.log)

    def drive(self, watch: Watch) -> None:
        """Until NOMAD ends by itself. Raises Ended, InputError or MachineError when it ends otherwise."""
        restarts = 0
        with self._guard.interruptible():
            while True:
                before = len(self.log.answers)
                died = self._session(watch)
                if died is None:
                    return
                restarts = 0 if len(self.log.answers) > before else restarts + 1
                if restarts > RESTARTS:
                    raise Ended(f"NOMAD ended {restarts} times without a new answer: {died}", 3)
                watch.note(f"{died}: replaying {len(self.log.answers)} evaluations")

    def _session(self, watch: Watch) -> str | None:
        """One NOMAD from start to end. None when it ended by itself, else what happened to it."""
        session = open_session(
            self.run, self.log, self.store, self.max_bb_eval, in_order=self.in_order, stopping=self.stopping
        )
        child = self._spawn(session)
        try:
            while child.poll() is None:
                self._guard.look(watch)
                time.sleep(POLL)
        finally:
            end([child])
            assert child.stdin is not None
            child.stdin.close()
            self.log.refresh()
            watch.update(self.log)
            shutil.rmtree(self.run.temporary, ignore_errors=True)
        if (stop := self._guard.stopped(session)) is not None:
            return stop.reason
        if child.returncode == -signal.SIGABRT and not self.log.answers:
            raise InputError(f"NOMAD refused these parameters: {_last_words(self.run.nomad_log)}")
        if child.returncode == -signal.SIGABRT:
            return f"NOMAD aborted: {_last_words(self.run.nomad_log)}"
        if child.returncode != 0:
            return f"NOMAD was ended by status {child.returncode}"
        index = Index(self.run, session)
        with index.locked():
            return misheard(self.run, index, session)

    def _spawn(self, session: Session) -> subprocess.Popen[bytes]:
        self.run.temporary.mkdir(parents=True, exist_ok=True)
        parameters = self.run.folder / "parameters.txt"
        own = [f"TMP_DIR {self.run.temporary.absolute()}", "ADD_SEED_TO_FILE_NAMES no"]
        own += [f"HISTORY_FILE {self.run.history.absolute()}"]
        own += ["DISPLAY_DEGREE 2"]  # the least at which NOMAD says that a blackbox was killed: see bbo/replay.py
        theirs = (surrogate_noted(self.run, session, line) for line in self.parameters)
        parameters.write_text("\n".join([*own, *theirs]) + "\n")
        ours = {LIFELINE: "1", RUN: os.path.abspath(self.run.folder), SESSION: session.name}
        with self.run.nomad_log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "bbo.batch", str(parameters)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own_python_first(), **ours},
                start_new_session=True,
            )


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("what():").strip() for line in lines if line.startswith("what():")]
    return " ".join(said or lines[-1:]) or f"it said nothing, see {log}"

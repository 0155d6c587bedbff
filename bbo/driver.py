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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil

from bbo.errors import InputError, MachineError
from bbo.experiment import Experiment
from bbo.index import Index
from bbo.lifeline import ENVIRONMENT as LIFELINE
from bbo.replay import misheard, surrogate_noted
from bbo.run import ENVIRONMENT as RUN
from bbo.run import Run
from bbo.runlog import RunLog, Stop
from bbo.session import ENVIRONMENT as SESSION
from bbo.session import Session, open_session
from bbo.store import Store

POLL = 0.1
RESTARTS = 2
"""Replays of a NOMAD that died without one new answer; after that the trouble is not an accident."""


@dataclass(frozen=True)
class Limits:
    """When to end a run early. Hours of wall time, and of GPUs x time in trained evaluations."""

    max_hours: float | None = None
    max_gpu_hours: float | None = None


class Ended(Exception):
    """The run is over before NOMAD is: by the user, a limit or the failure policy."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Driver:
    """One run under one NOMAD at a time. `watch` is called some times a second with the fresh log."""

    run: Run
    experiment: Experiment
    store: Store
    parameters: Sequence[str]
    max_bb_eval: int | None
    in_order: bool
    limits: Limits
    log: RunLog = field(init=False)
    _gpu_seconds: float = 0.0
    _counted: set[str] = field(default_factory=set)
    """Keys of the evaluations in `_gpu_seconds`."""
    _seen: int = 0
    """Answers in the log that were looked at for it."""

    def __post_init__(self) -> None:
        self.log = self.run.log()

    def drive(self, watch: "Watch") -> None:
        """Until NOMAD ends by itself. Raises Ended, InputError or MachineError when it ends otherwise."""
        started, restarts = time.monotonic(), 0
        with _interruptible() as caught:
            while True:
                before = len(self.log.answers)
                died = self._session(watch, started, caught)
                if died is None:
                    return
                restarts = 0 if len(self.log.answers) > before else restarts + 1
                if restarts > RESTARTS:
                    raise Ended(f"NOMAD ended {restarts} times without a new answer: {died}", 3)
                watch.note(f"{died}: replaying {len(self.log.answers)} evaluations")

    def _session(self, watch: "Watch", started: float, caught: list[int]) -> str | None:
        """One NOMAD from start to end. None when it ended by itself, else what happened to it."""
        session = open_session(self.run, self.log, self.store, self.max_bb_eval, self.in_order)
        child = self._spawn(session)
        try:
            while child.poll() is None:
                self._look(watch, started, caught)
                time.sleep(POLL)
        finally:
            _end(child)
            self.log.refresh()
            watch.update(self.log)
            shutil.rmtree(self.run.temporary, ignore_errors=True)
        if self.log.stopped is not None and self.log.stopped.session == session.name:
            return self._stopped(self.log.stopped)
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
        ours = {LIFELINE: "1", RUN: str(self.run.folder.absolute()), SESSION: session.name}
        with self.run.nomad_log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "bbo.batch", str(parameters)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own_python_first(), **ours},
                start_new_session=True,
            )

    def _look(self, watch: "Watch", started: float, caught: list[int]) -> None:
        self.log.refresh()
        watch.update(self.log)
        if caught:
            raise Ended(f"interrupted by {signal.Signals(caught[0]).name}", 130)
        if self.limits.max_hours is not None and time.monotonic() - started > self.limits.max_hours * 3600:
            raise Ended(f"--max-hours {self.limits.max_hours:g} is over", 0)
        if self.limits.max_gpu_hours is not None and self._gpu_hours() > self.limits.max_gpu_hours:
            raise Ended(f"--max-gpu-hours {self.limits.max_gpu_hours:g} is spent", 0)
        in_a_row = failed_in_a_row(self.log)
        if len(in_a_row) >= self.experiment.resources.max_failed:
            reasons = "; ".join(dict.fromkeys(in_a_row))
            retry = f"`bbo retry {self.run.folder}` forgets them"
            raise Ended(f"{len(in_a_row)} evaluations in a row failed (resources.max_failed): {reasons}; {retry}", 3)

    def _gpu_hours(self) -> float:
        new, self._seen = self.log.arrived[self._seen :], len(self.log.arrived)
        for answer in new:
            ask = self.log.asks[answer.number - 1]
            if answer.gpu_seconds is not None:  # stopped: another run may train it to the end, at its own expense
                self._gpu_seconds += answer.gpu_seconds
            if not ask.native and answer.source in ("trained", "failed") and ask.key not in self._counted:
                result = self.store.evaluation(ask.key).result()
                self._gpu_seconds += result.gpu_seconds if result else 0.0
                self._counted.add(ask.key)
        return self._gpu_seconds / 3600

    def _stopped(self, stop: Stop) -> str:
        if stop.kind == "unanswered":
            return stop.reason
        if stop.kind == "input":
            raise InputError(*stop.reason.splitlines())
        if stop.kind == "machine":
            raise MachineError(stop.reason)
        raise Ended(f"the replay left the record: {stop.reason}", 3)


class Watch:
    """What a driver tells while it drives; see bbo/display.py."""

    def update(self, log: RunLog) -> None:
        """The log may have grown."""

    def note(self, sentence: str) -> None:
        """Something worth a line happened."""


def failed_in_a_row(log: RunLog) -> list[str]:
    """The reasons of the failed evaluations at the end of the log, latest first."""
    reasons = []
    for ask in reversed(log.driven):
        answer = log.answers.get(ask.number)
        if answer is None or answer.source == "declined":
            continue
        if answer.source != "failed":
            break
        reasons.append(answer.reason or "no reason noted")
    return reasons


def own_python_first() -> dict[str, str]:
    """So that `python3` in a BB_EXE is the interpreter that runs us."""
    return {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Ctrl-C, a closed terminal and a scheduler's SIGTERM end the run in the same orderly way; what came is listed.

    A signal that was ignored when we started (nohup) stays ignored.
    """
    caught: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        caught.append(number)

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for name, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(name, note)
    try:
        yield caught
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End NOMAD and the blackbox, which first ends its trainer; return when all of the session are gone."""
    deadline = time.monotonic() + 15
    name = signal.SIGTERM
    while _living(child):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, name)
        if time.monotonic() > deadline:
            name = signal.SIGKILL
        time.sleep(0.05)
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


def _living(child: subprocess.Popen[bytes]) -> bool:
    """Whether anybody of the child's process group runs. Where we are process 1 its orphans are ours to reap."""
    child.poll()
    with suppress(ChildProcessError):
        os.waitpid(-child.pid, os.WNOHANG)
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return any(_in_group(process, child.pid) for process in psutil.process_iter())


def _in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("what():").strip() for line in lines if line.startswith("what():")]
    return " ".join(said or lines[-1:]) or f"it said nothing, see {log}"

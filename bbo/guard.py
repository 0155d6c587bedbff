"""What ends a run before its optimizer does: a signal, a limit, failures in a row, or what the blackbox has noted."""

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

from bbo.errors import InputError, MachineError
from bbo.experiment import Experiment
from bbo.front import is_good
from bbo.run import Run
from bbo.runlog import RunLog, Stop
from bbo.session import Session
from bbo.store import Store

NO_REASON = "no reason noted"


@dataclass(frozen=True)
class Limits:
    """When to end a run early."""

    max_hours: float | None = None
    """Of wall time."""
    max_gpu_hours: float | None = None
    """GPUs x time in trained evaluations."""
    goal: float | None = None
    """What the objective is to reach, with its true sign."""


class Ended(Exception):
    """The run is over before its optimizer is: by the user, a limit or the failure policy."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class Watch:
    """What a run tells while it is driven; see bbo/display.py."""

    def update(self, log: RunLog) -> None:
        """The log may have grown."""

    def note(self, sentence: str) -> None:
        """Something worth a line happened."""

    def replayed(self, count: int, total: int) -> None:
        """So many of the recorded asks were proposed again."""


class Drives(Protocol):
    """What leads a run from its record to its end."""

    log: RunLog

    def drive(self, watch: Watch) -> None:
        """Until the optimizer ends by itself. Raises Ended, InputError or MachineError when it ends otherwise."""


@dataclass
class Guard:
    """Follows one run's log and ends the run. `look` is to be called some times a second, under `interruptible`."""

    run: Run
    experiment: Experiment
    store: Store
    limits: Limits
    log: RunLog
    started: float = field(default_factory=time.monotonic)
    _caught: list[int] = field(default_factory=list)
    """Signals that came in."""
    _gpu_seconds: float = 0.0
    _counted: set[str] = field(default_factory=set)
    """Keys of the evaluations in `_gpu_seconds`."""
    _seen: int = 0
    """Answers in the log that were looked at for it."""
    _compared: int = 0
    """Answers in the log that were compared with the goal."""

    def look(self, watch: Watch) -> None:
        """Read the log and show it. Raises Ended."""
        self.log.refresh()
        watch.update(self.log)
        if self._caught:
            raise Ended(f"interrupted by {signal.Signals(self._caught[0]).name}", 130)
        if self.limits.max_hours is not None and time.monotonic() - self.started > self.limits.max_hours * 3600:
            raise Ended(f"--max-hours {self.limits.max_hours:g} is over", 0)
        if self.limits.max_gpu_hours is not None and self._gpu_hours() > self.limits.max_gpu_hours:
            raise Ended(f"--max-gpu-hours {self.limits.max_gpu_hours:g} is spent", 0)
        if self.limits.goal is not None:
            self._end_at(self.limits.goal)
        resources, in_a_row = self.experiment.resources, failed_in_a_row(self.log)
        if (most := resources.max_failed_total) is not None and len(failed := failed_in_all(self.log)) >= most:
            raise self._failed(f"{len(failed)} evaluations failed (resources.max_failed_total)", failed)
        if len(in_a_row) >= resources.max_failed:
            raise self._failed(f"{len(in_a_row)} evaluations in a row failed (resources.max_failed)", in_a_row)

    def stopped(self, session: Session) -> Stop | None:
        """The need for a replay, where the blackbox noted one in this session. Raises what else it noted."""
        stop = self.log.stopped
        if stop is None or stop.session != session.name:
            return None
        if stop.kind == "unanswered":
            return stop
        if stop.kind == "input":
            raise InputError(*stop.reason.splitlines())
        if stop.kind == "machine":
            raise MachineError(stop.reason)
        raise Ended(f"the replay left the record: {stop.reason}", 3)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C, a closed terminal and a scheduler's SIGTERM end the run in the same orderly way, at the next look.

        A signal that was ignored when we started (nohup) stays ignored.
        """

        def note(number: int, _: FrameType | None) -> None:
            self._caught.append(number)

        before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for name, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(name, note)
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _end_at(self, goal: float) -> None:
        """Raise Ended where an evaluation of the run's has reached the goal, and its constraints hold."""
        new, self._compared = self.log.arrived[self._compared :], len(self.log.arrived)
        output = self.experiment.outputs[self.experiment.objective]
        for answer in new:
            ask = self.log.asks[answer.number - 1]
            if ask.native or ask.surrogate or answer.values is None or not is_good(self.experiment, answer):
                continue
            if answer.values[self.experiment.objective] <= output.sign * goal:
                value = output.sign * answer.values[self.experiment.objective]
                raise Ended(f"--goal {goal:g} is reached: {output.metric} {value:.6g} of #{ask.number}", 0)

    def _failed(self, what: str, reasons: Iterable[str]) -> Ended:
        several = "; ".join(dict.fromkeys(reasons))
        return Ended(f"{what}: {several}; `bbo retry {self.run.folder}` forgets them", 3)

    def _gpu_hours(self) -> float:
        new, self._seen = self.log.arrived[self._seen :], len(self.log.arrived)
        for answer in new:
            ask = self.log.asks[answer.number - 1]
            if answer.gpu_seconds is not None:  # stopped: another run may train it to the end, at its own expense
                self._gpu_seconds += answer.gpu_seconds
            if not ask.native and answer.source in ("trained", "failed") and ask.key not in self._counted:
                spent = self.store.evaluation(ask.key).spent()
                self._gpu_seconds += spent[1] if spent else 0.0
                self._counted.add(ask.key)
        return self._gpu_seconds / 3600


def failed_in_all(log: RunLog) -> list[str]:
    """The reasons of all failed evaluations, the first one first."""
    answers = (log.answers.get(ask.number) for ask in log.driven)
    return [answer.reason or NO_REASON for answer in answers if answer is not None and answer.source == "failed"]


def failed_in_a_row(log: RunLog) -> list[str]:
    """The reasons of the failed evaluations at the end of the log, latest first."""
    reasons = []
    for ask in reversed(log.driven):
        answer = log.answers.get(ask.number)
        if answer is None or answer.source == "declined":
            continue
        if answer.source != "failed":
            break
        reasons.append(answer.reason or NO_REASON)
    return reasons

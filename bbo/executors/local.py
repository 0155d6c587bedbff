"""Run jobs on this machine's slots: each in a session of its own that ends with us, or as its `start` has it done."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bbo.executors.slots import Slot, acquire, holders
from bbo.lifeline import ENVIRONMENT

POLL = 0.05


class Process(Protocol):
    """A job at work."""

    @property
    def pid(self) -> int:
        """A process that lives as long as the job is at work."""

    def poll(self) -> int | None:
        """Exit status (negative: the signal), None while the job is at work."""

    def kill(self) -> None:
        """Called once at the end, whichever it was: nothing of a job outlives this call."""


class Spawned:
    """A job that is a process with a session and a lifeline of its own."""

    def __init__(self, launch: "Launch", slot: Slot) -> None:
        with launch.log.open("ab") as log:
            self._process = subprocess.Popen(
                launch.arguments,
                stdin=subprocess.PIPE,  # the lifeline: see bbo/lifeline.py
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.environment, **launch.environment, ENVIRONMENT: "1"},
                start_new_session=True,
                pass_fds=slot.locks,
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        """End the whole session and wait for its leader."""
        for name in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, name)
            except ProcessLookupError:
                break
            try:
                self._process.wait(timeout=3 if name == signal.SIGTERM else None)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


@dataclass(frozen=True)
class Launch:
    """A job's command. `prepare` is called with the slot and writes the job file before the process starts."""

    job: str
    arguments: Sequence[str]
    log: Path
    """The process's stdout and stderr."""
    prepare: Callable[[Slot], None]
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    """Time after which the job is killed."""
    start: Callable[["Launch", Slot], Process] = Spawned
    """Puts the job to work, by default as a process of its own."""


@dataclass(frozen=True)
class Exit:
    """How a job's process ended: its exit status (negative: the signal), or that its time was over."""

    status: int
    timed_out: bool = False


@dataclass
class _Running:
    process: Process
    slot: Slot
    started: float

    def kill(self) -> None:
        self.process.kill()
        self.slot.release()


def run(
    launches: Sequence[Launch],
    slots: Sequence[tuple[str, ...]],
    started: Callable[[Launch, int], None],
    tick: Callable[[], None],
) -> Iterator[tuple[Launch, Exit]]:
    """Run each job on the next free slot and yield it with its exit, in the order in which they end.

    `started` gets each process id; `tick` is called some times a second. Closing the generator kills what runs.
    """
    waiting = list(launches)
    running: dict[str, tuple[Launch, _Running]] = {}
    said = False
    try:
        while waiting or running:
            while waiting and (slot := acquire(slots)) is not None:
                launch = waiting.pop(0)
                running[launch.job] = (launch, _start(launch, slot))
                started(launch, running[launch.job][1].process.pid)
            if waiting and not running and not said:
                print(f"waiting for a device held by {holders(slots)}", file=sys.stderr, flush=True)
                said = True
            for launch, job in list(running.values()):
                status = job.process.poll()
                late = launch.seconds is not None and time.monotonic() - job.started > launch.seconds
                if status is not None or late:
                    job.kill()
                    del running[launch.job]
                    yield launch, Exit(-signal.SIGKILL if status is None else status, timed_out=status is None)
            tick()
            if waiting or running:
                time.sleep(POLL)
    finally:
        for _, job in running.values():
            job.kill()


def _start(launch: Launch, slot: Slot) -> _Running:
    launch.prepare(slot)
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    return _Running(launch.start(launch, slot), slot, time.monotonic())

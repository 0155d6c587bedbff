"""Jobs on this machine's slots: each in a session of its own that ends with us, or given to a resident process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bbo.executors.protocol import Exit, Launch, Started
from bbo.executors.resident import Handed
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

    def __init__(self, launch: Launch, slot: Slot) -> None:
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


class Running:
    """A job on a slot: put to work, and watched until it ends or its time is over."""

    def __init__(self, launch: Launch, slot: Slot) -> None:
        launch.prepare(slot)
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        self.launch, self._slot, self._began = launch, slot, time.monotonic()
        self.process: Process = Spawned(launch, slot) if launch.resident is None else Handed(launch, slot)

    def poll(self) -> Exit | None:
        """How it ended, all of it gone; None while it is at work."""
        status, limit = self.process.poll(), self.launch.seconds
        late = limit is not None and time.monotonic() - self._began > limit
        if status is None and not late:
            return None
        self.kill()
        return Exit(-signal.SIGKILL, timed_out=True) if status is None else Exit(status)

    def kill(self) -> None:
        self.process.kill()
        self._slot.release()


@dataclass(frozen=True)
class Local:
    """This machine's devices, shared out over slots (bbo/executors/slots.py)."""

    slots: Sequence[tuple[str, ...]]

    @property
    def devices(self) -> tuple[str, ...]:
        return self.slots[0]

    def count(self) -> int:
        return len(self.slots)

    def run(
        self, launches: Sequence[Launch], started: Started, tick: Callable[[], None]
    ) -> Iterator[tuple[Launch, Exit]]:
        waiting = list(launches)
        running: list[Running] = []
        said = False
        try:
            while waiting or running:
                while waiting and (slot := acquire(self.slots)) is not None:
                    running.append(Running(waiting.pop(0), slot))
                    started(running[-1].launch, running[-1].process.pid)
                if waiting and not running and not said:
                    print(f"waiting for a device held by {holders(self.slots)}", file=sys.stderr, flush=True)
                    said = True
                for job in list(running):
                    if (how := job.poll()) is not None:
                        running.remove(job)
                        yield job.launch, how
                tick()
                if waiting or running:
                    time.sleep(POLL)
        finally:
            for job in running:
                job.kill()

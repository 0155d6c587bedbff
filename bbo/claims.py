"""Who trains an evaluation right now: a claim file, so that concurrent processes never train one twice.

On one host a claim is alive while one of the processes named in it is (pid and start time, so that a reused pid does
not count). Across hosts the holder touches the file, and a watcher takes a claim for dead when the file's time has not
moved for `SILENCE` seconds of the watcher's own clock: clocks of two hosts are never compared.

A job on another host has no process here. It ends by itself some time before `SILENCE` is over (bbo/lifeline.py), and
until then the claim is alive on the holder's own host too, though all its processes may be dead.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from bbo.lifeline import every

HEARTBEAT = 10.0
SILENCE = 60.0


@dataclass(frozen=True)
class Holder:
    """The processes behind a claim: (pid, start time in seconds since 1970) each."""

    host: str
    processes: tuple[tuple[int, float], ...]
    elsewhere: bool = False
    """Whether a job of theirs is on another host."""

    def describe(self) -> str:
        return f"process {self.processes[0][0]} on {self.host}"


class Claim:
    """One claim file. `acquire` never waits; who holds it calls `add` for each process it starts, and `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, float] | None = None

    def acquire(self) -> bool:
        """Whether the claim is now ours: it was free, or its holder is dead."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(".claim.lock"), "a") as guard:
            # Serializes takers of one host; between hosts the exclusive link below decides.
            fcntl.flock(guard, fcntl.LOCK_EX)
            if self.path.exists():
                if self._alive(self.holder()):
                    return False
                self.path.unlink(missing_ok=True)
            return self._create()

    def add(self, pid: int | None) -> None:
        """Count another process as holder: the claim outlives us as long as it does. None: one on another host."""
        holder = self.holder()
        assert holder is not None
        if pid is None:
            self._replace(replace(holder, elsewhere=True))
            self.touch()  # the time at which it was written may be a file server's
        else:
            self._replace(replace(holder, processes=(*holder.processes, _identity(pid))))

    def release(self) -> None:
        self.path.unlink(missing_ok=True)

    def touch(self) -> None:
        """Show watchers on other hosts that we live, by the clock of ours."""
        with suppress(OSError):  # gone, or the next one may get through
            os.utime(self.path, (now := time.time(), now))

    def holder(self) -> Holder | None:
        """Who has it; None where nobody has, or where a crash of the machine left a claim without content."""
        try:
            content = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        processes = tuple((pid, start) for pid, start in content["processes"])
        return Holder(content["host"], processes, content["elsewhere"])

    def _create(self) -> bool:
        temporary = self.path.with_name(f".claim.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}")
        temporary.write_text(_text(Holder(socket.gethostname(), (_identity(os.getpid()),))))
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _replace(self, holder: Holder) -> None:
        temporary = self.path.with_name(f"{self.path.name}.new")
        temporary.write_text(_text(holder))
        os.replace(temporary, self.path)

    def _alive(self, holder: Holder | None) -> bool:
        try:
            beat = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if holder is not None and holder.host == socket.gethostname():
            silent = abs(time.time() - beat / 1e9) > SILENCE
            return any(_lives(pid, start) for pid, start in holder.processes) or (holder.elsewhere and not silent)
        now = time.monotonic()
        if self._seen is None or self._seen[0] != beat:
            self._seen = (beat, now)
        return now - self._seen[1] < SILENCE


@contextmanager
def beating(claims: Sequence[Claim]) -> Iterator[None]:
    """Touch these claims of ours every HEARTBEAT seconds."""

    def beat() -> None:
        for claim in claims:
            claim.touch()

    with every(HEARTBEAT, beat):
        yield


def _text(holder: Holder) -> str:
    return json.dumps(asdict(holder))


def _identity(pid: int) -> tuple[int, float]:
    start = _start(pid)
    return (pid, -1.0 if start is None else start)


def _start(pid: int) -> float | None:
    """Start time of a living process; None for a dead one or a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def _lives(pid: int, start: float) -> bool:
    now = _start(pid)
    return now is not None and abs(now - start) < 2  # a set clock moves the reading a little, a reused pid far more

"""No orphans: a process started with a lifeline ends when the one that started it is gone, however it died.

The lifeline is the child's standard input: the read end of a pipe whose write end only the parent holds. The kernel
closes it on any death of the parent, and every launcher in between (sh, accelerate, torchrun) hands stdin on.

No kernel does that for a process on another host. It has a *lease* instead: a file in a folder that both hosts see, in
which who wants the process to live writes something new every `BEAT` seconds. The process begins when it has seen that
once, and ends when nothing has changed for `PATIENCE` seconds of its own clock: clocks of two hosts are never compared.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

ENVIRONMENT = "BBO_LIFELINE"
LEASE = "BBO_LEASE"
"""The lease's file."""

BEAT = 2.0
PATIENCE = 30.0
"""Less than the silence after which others take a claim for dead (bbo/claims.py)."""


def watch(on_death: Callable[[], None] | None = None, outlives_parent: bool = False) -> None:
    """Start a daemon thread that ends this process, after `on_death()`, once the lifeline is cut or the parent gone.

    `outlives_parent`: the lifeline is that of somebody further up. Without BBO_LIFELINE in the environment (somebody
    typed the command) nothing is watched, and no lease without BBO_LEASE.
    """

    def end() -> None:
        if on_death is not None:
            on_death()
        os.kill(os.getpid(), signal.SIGKILL)

    if LEASE in os.environ:
        _watch_lease(Path(os.environ[LEASE]), end)
    if os.environ.get(ENVIRONMENT) != "1":
        return
    parent = os.getppid()

    poll = select.poll()
    poll.register(0, select.POLLHUP)

    def wait() -> None:
        while not poll.poll(500) and (outlives_parent or os.getppid() == parent):
            pass
        end()

    if poll.poll(0):  # cut before we began: not one step more
        end()
    threading.Thread(target=wait, name="lifeline", daemon=True).start()


@contextmanager
def lease(file: Path) -> Iterator[None]:
    """Keep processes alive that have this file's path in BBO_LEASE, for as long as we live."""
    numbers = count(1)

    def beat() -> None:
        with suppress(OSError):  # the next one may get through
            file.write_text(f"{os.getpid()} {next(numbers):012}")

    file.write_text("")
    try:
        with every(BEAT, beat):
            yield
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def every(seconds: float, beat: Callable[[], None]) -> Iterator[None]:
    """Do this again and again, beside what is done meanwhile."""
    over = threading.Event()

    def beats() -> None:
        while not over.wait(seconds):
            beat()

    thread = threading.Thread(target=beats, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch_lease(file: Path, end: Callable[[], None]) -> None:
    """Return when the file has changed once, and watch it from then on; end where it does not."""
    beats = _changes(file)
    if not next(beats, False):
        end()

    def wait() -> None:
        for _ in beats:
            pass
        end()

    threading.Thread(target=wait, name="lease", daemon=True).start()


def _changes(file: Path) -> Iterator[bool]:
    """True whenever what is in the file has changed, until it has not for too long."""
    seen, since = _content(file), time.monotonic()
    while time.monotonic() - since < PATIENCE:
        time.sleep(BEAT / 4)
        now = _content(file)
        if now not in (None, seen):
            seen, since = now, time.monotonic()
            yield True


def _content(file: Path) -> str | None:
    """Read anew: opening a file asks its server, looking at its time may not."""
    try:
        return file.read_text()
    except OSError:
        return None

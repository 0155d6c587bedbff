"""What a resident worker does between loading and ending: it serves jobs, one after another.

It is handed them (bbo/executors/resident.py) through a Unix socket in an owner-only folder, as lines of JSON:

    -> {"job": FILE, "log": FILE}     with the open locks of the job's devices (SCM_RIGHTS)
    <- {"accepted": FILE}             or {"error": SENTENCE}
    <- {"status": NUMBER}             the job's exit status; by now the locks are closed

The connection is the job's lifeline: closed in the middle of a job, it ends the worker at once. Between jobs a worker
ends with its run (bbo/lifeline.py), after an idle time, or when others want its devices.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bbo.executors.protocol import MACHINE_FAILED
from bbo.executors.slots import taken

LOOK = 1.0
PATIENCE = 3.0
"""Seconds between two looks at our devices, and for which others may hold them while we have no job: then we take
memory that is theirs."""

HELLO = 5.0
"""Seconds in which a worker, or who calls it, says something."""

MOST_DESCRIPTORS = 250
"""Passed with one message: the kernel takes 253."""


def serve(file: Path, devices: Sequence[str], idle: float, work: Callable[[Path], int]) -> None:
    """Do the jobs that come in at this socket, until nobody has one any more or the devices are wanted by others."""
    with listen(file) as listener:
        worked = time.monotonic()
        wanted: float | None = None  # since when others hold our devices
        while time.monotonic() - worked < idle and (wanted is None or time.monotonic() - wanted < PATIENCE):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                wanted = (wanted or time.monotonic()) if taken(devices) else None
                continue
            with connection:
                status = attend(connection, file, work)
            if status == MACHINE_FAILED:
                break
            if status is not None:
                worked, wanted = time.monotonic(), None
        file.unlink(missing_ok=True)


def listen(file: Path) -> socket.socket:
    """A socket that appears under its name when it accepts: one that refuses belongs to the dead."""
    listener = socket.socket(socket.AF_UNIX)
    new = file.with_suffix(f".{os.getpid()}")
    listener.bind(str(new))
    listener.listen()
    listener.settimeout(LOOK)
    new.rename(file)
    return listener


def attend(connection: socket.socket, file: Path, work: Callable[[Path], int]) -> int | None:
    """Do the job that this connection brings, and say how it ended. None where it brought none."""
    locks: list[int] = []
    accepted = False
    try:
        job, log = receive(connection, locks)
        say(connection, {"accepted": str(job)})
        accepted = True
        with lifeline_of(connection, file), output_to(log):
            status = work(job)
    except (OSError, ValueError, RecursionError) as error:
        with suppress(OSError):
            say(connection, {"error": str(error)})
        return MACHINE_FAILED if accepted else None
    finally:
        for lock in locks:
            os.close(lock)
    if status == MACHINE_FAILED:
        file.unlink(missing_ok=True)  # before anybody can hand us another
    with suppress(OSError):
        say(connection, {"status": status})
    return status


def receive(connection: socket.socket, locks: list[int]) -> tuple[Path, Path]:
    """Job file and log; the devices' locks are added to `locks`. Raises OSError or ValueError for anything else."""
    connection.settimeout(HELLO)
    text = b""
    while not text.endswith(b"\n"):
        heard, descriptors, *_ = socket.recv_fds(connection, 4096, MOST_DESCRIPTORS)
        locks += descriptors
        text += heard
        if not heard or len(text) > 65536:
            raise ValueError("a job must be one line of JSON")
    connection.settimeout(None)
    request = json.loads(text)
    if not isinstance(request, dict) or {type(request.get(name)) for name in ("job", "log")} != {str}:
        raise ValueError('a job must be {"job": FILE, "log": FILE}')
    if not Path(request["job"]).is_file():
        raise ValueError(f"no such job file: {request['job']}")
    return Path(request["job"]), Path(request["log"])


def say(connection: socket.socket, message: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


@contextmanager
def lifeline_of(connection: socket.socket, file: Path) -> Iterator[None]:
    """End this process when the other end is closed: nothing is trained for nobody."""
    over = threading.Event()

    def wait() -> None:
        with suppress(OSError):
            while connection.recv(4096):
                pass
        if not over.is_set():
            vanish(file)

    thread = threading.Thread(target=wait, name="lifeline of the job", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        connection.shutdown(socket.SHUT_RD)
        thread.join()


def vanish(file: Path) -> None:
    """End this process at once, whatever its other threads do; a launcher, which waits for it, ends in peace."""
    file.unlink(missing_ok=True)
    os._exit(0)


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """What this process writes to stdout and stderr goes to a job's log."""
    ours = os.dup(1), os.dup(2)
    theirs = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.dup2(theirs, 1)
        os.dup2(theirs, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in enumerate(ours, start=1):
            os.dup2(kept, number)
            os.close(kept)
        os.close(theirs)

"""Jobs in the hands of a resident process (bbo/executors/serve.py), which is started where there is none.

There is one per run folder, slot and hash of what is loaded. Whoever holds a slot's locks is the only one that talks to
its worker, so that starting one is no race.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bbo import lifeline
from bbo.errors import MachineError
from bbo.executors.protocol import INPUT_REFUSED, Launch
from bbo.executors.serve import HELLO, MOST_DESCRIPTORS, say
from bbo.executors.slots import Slot, own_folder
from bbo.store import key_of, write_json

IDLE_DRIVEN = 600.0
IDLE_ALONE = 60.0
"""Seconds without a job after which a worker ends, with and without a driver to end with."""

ADDRESS_BYTES = 107
"""Longest path of a Unix socket."""


class Handed:
    """A job in the hands of a worker."""

    def __init__(self, launch: Launch, slot: Slot) -> None:
        assert launch.resident is not None
        self._resident, self._launch, self._slot = launch.resident, launch, slot
        about = {"run": str(self._resident.note.absolute()), "loaded": self._resident.loaded, "devices": slot.devices}
        key = key_of({**about, "command": self._resident.arguments, "environment": dict(launch.environment)})
        self._file = socket_file(key)
        self._log = launch.log.with_name(f"worker-{key}.log")
        self._connection: socket.socket | None = None
        self._worker = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self._accepted = False
        self._heard = b""
        self._complain_at = float("inf")
        if not self._connect():
            self._child = self._spawn()

    @property
    def pid(self) -> int:
        return self._worker if self._child is None else self._child.pid

    def poll(self) -> int | None:
        if self._status is None:
            self._status = self._look()
        return self._status

    def kill(self) -> None:
        """End the worker too unless it did the job: half a job leaves nothing that is good for the next."""
        if self._status not in (0, INPUT_REFUSED):
            self._end()
            self._status = self._status or -signal.SIGKILL
        if self._connection is not None:
            self._connection.close()

    def _look(self) -> int | None:
        if self._connection is None and not self._connect():
            assert self._child is not None
            return None if self._child.poll() is None else -signal.SIGKILL
        assert self._connection is not None
        try:
            heard = self._connection.recv(4096)
        except BlockingIOError:
            self._complain()
            return None
        except ConnectionError:
            heard = b""
        if heard:
            return self._understand(heard)
        if self._accepted or self._child is not None:
            return -signal.SIGKILL  # it died; of what, nobody can say of a process that is not his child
        self._connection.close()  # it was about to end when we called
        self._connection, self._worker, self._child = None, 0, self._spawn()
        return None

    def _understand(self, heard: bytes) -> int | None:
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for answer in map(json.loads, lines):
            if "error" in answer:
                raise MachineError(f"worker {self._worker} refused {self._launch.job}: {answer['error']}")
            self._accepted = True
            if "status" in answer:
                return int(answer["status"])
        return None

    def _complain(self) -> None:
        if not self._accepted and time.monotonic() > self._complain_at:
            self._complain_at = float("inf")
            print(f"waiting for worker {self._worker}, which does not answer: {self._log}", file=sys.stderr, flush=True)

    def _connect(self) -> bool:
        """Hand the job over. False where no worker listens."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._file))
            for first in range(0, len(self._slot.locks), MOST_DESCRIPTORS):
                socket.send_fds(connection, [b" "], self._slot.locks[first : first + MOST_DESCRIPTORS])
            say(connection, {"job": str(self._resident.job.absolute()), "log": str(self._launch.log.absolute())})
        except (FileNotFoundError, ConnectionError):
            connection.close()
            return False
        connection.setblocking(False)
        self._worker = _pid_of_peer(connection)
        self._connection, self._complain_at = connection, time.monotonic() + HELLO
        if self._child is not None:
            entry = {"pid": self._worker, "socket": str(self._file), "key": self._file.stem, "log": str(self._log)}
            _note(self._resident.note, self._slot, entry | {"started": time.strftime("%Y-%m-%d %H:%M:%S")})
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        """A worker in a session of its own."""
        driven = self._resident.driven
        idle = IDLE_DRIVEN if driven else IDLE_ALONE
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*self._resident.arguments, str(self._file), ",".join(self._slot.devices), str(idle)],
                stdin=None if driven else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    **self._slot.environment,
                    **self._launch.environment,
                    lifeline.ENVIRONMENT: "1" if driven else "0",
                },
                start_new_session=True,
            )

    def _end(self) -> None:
        """Kill the worker's session, its launcher included, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(os.getpgid(self.pid), signal.SIGKILL)
        if self._child is not None:
            self._child.wait()
        while self._worker and _lives(self._worker):
            time.sleep(0.01)


def socket_file(key: str) -> Path:
    """Where the worker of this key listens; in /tmp where the temporary folder's path is too long for a socket's."""
    file = own_folder("bbo-workers") / f"{key}.sock"
    return file if len(os.fsencode(file)) < ADDRESS_BYTES - 8 else own_folder("bbo-workers", "/tmp") / file.name


def _note(file: Path, slot: Slot, entry: Mapping[str, Any]) -> None:
    """Write down a worker; those that are gone are dropped."""
    try:
        known = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        known = {}
    living = {name: other for name, other in known.items() if psutil.pid_exists(other["pid"])}
    write_json(file, {**living, slot.name: entry})


def _pid_of_peer(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    if pid == 0:
        raise MachineError("the worker of this slot runs in another container: set resources.worker to fresh")
    return pid


def _lives(pid: int) -> bool:
    """Whether any thread is left: the first may be a zombie while the others still hold the locks."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False

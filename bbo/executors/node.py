"""A slot on a machine of a Ray cluster: an actor that runs one job at a time, as the local executor does.

Where there is no shared folder, a job has a folder of its own in the machine's temporary folder, for as long as it
lasts. What many jobs read, models and data, is kept by content beside it:

    /tmp/bbo-ray-UID/blobs/SHA256    jobs/JOB/PATH ON THE OTHER MACHINE

This class knows no Ray: its methods take and return plain values, and are called one after another.
"""

import os
import shutil
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import file_digest
from pathlib import Path
from typing import Any

from bbo import lifeline
from bbo.errors import MachineError
from bbo.executors.remote import Remote, below
from bbo.executors.slots import Slot, acquire, holders, own_folder, slots_of, visible_gpus

UNUSED_SECONDS = 30 * 86400.0
"""What no job has used for so long is deleted."""


class Node:
    """One slot. Its processes end with it, and it ends when nobody has asked after its job for some time."""

    def __init__(self, gpus: int, cpus: int, carried: bool) -> None:
        self._choices = [tuple(visible_gpus()[:gpus])] if gpus else slots_of(0, cpus)
        self._carried = carried
        self._slot: Slot | None = None
        self._job: Remote | None = None
        self._heard = time.monotonic()
        # What stays loaded here hangs on a pipe of ours, as on a driver's.
        end, self._lifeline = os.pipe()
        os.dup2(end, 0)
        os.close(end)
        self._root = own_folder("bbo-ray")
        self._jobs = self._root / "jobs" / str(os.getpid())
        if carried:
            for name in ("blobs", "jobs"):
                (self._root / name).mkdir(exist_ok=True)
                _forget_unused(self._root / name)
            # Jobs of other runs on this machine may have the same names.
            self._jobs.mkdir(exist_ok=True)
        threading.Thread(target=self._watch_over, name="lease", daemon=True).start()

    def hello(self) -> dict[str, Any]:
        """Where the slot is, and where the folders of its jobs."""
        return {"host": socket.gethostname(), "root": str(self._jobs) if self._carried else None}

    def acquire(self) -> dict[str, Any]:
        """Hold devices of this machine: they may be another run's. Says what they are called, or who has them."""
        self._slot = self._slot or acquire(self._choices)
        if self._slot is None:
            return {"holders": holders(self._choices)}
        return {"slot": self._slot.name, "devices": self._slot.devices}

    def lacks(self, digests: Sequence[str]) -> list[str]:
        """Those of these contents that have to be sent."""
        lacking = []
        for digest in digests:
            try:
                os.utime(self._blob(digest))
            except FileNotFoundError:
                lacking.append(digest)
        return lacking

    def put(self, digest: str, offset: int, part: bytes, is_last: bool) -> None:
        """Take a part of a content, from its beginning to its end. Raises MachineError where it is another content."""
        self._heard = time.monotonic()
        new = self._blob(f"{digest}.{os.getpid()}")
        with new.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(part)
        if not is_last:
            return
        with new.open("rb") as file:
            found = file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise MachineError("a file that the job reads changed while it was sent")
        new.rename(self._blob(digest))

    def bring(self, job: str, path: str, offset: int, part: bytes, is_last: bool) -> None:
        """Take a part of a file of this job's alone."""
        self._heard = time.monotonic()
        file = below(self._jobs / job, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("r+b" if offset else "wb") as opened:
            opened.seek(offset)
            opened.write(part)

    def start(self, job: str, orders: Mapping[str, Any]) -> int:
        """Start a job on the slot that is held. A process id of this machine that lives as long as it."""
        assert self._slot is not None
        root = self._jobs / job if self._carried else None
        if root is not None:
            root.mkdir(exist_ok=True)
            for path, digest in orders["reads"].items():
                file = below(root, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.unlink(missing_ok=True)
                os.link(self._blob(digest), file)
            for path, text in orders["texts"].items():
                file = below(root, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        self._heard = time.monotonic()
        self._job = Remote(job, orders, self._slot, root, self._root / f"workers-{os.getpid()}.json")
        self._slot = None
        self._heard = time.monotonic()
        return self._job.pid

    def watch(self, seconds: float) -> dict[str, Any]:
        """What is new about the job, as soon as something is, or after this time."""
        assert self._job is not None
        deadline = time.monotonic() + seconds
        while not (report := self._job.report()) and time.monotonic() < deadline:
            self._heard = time.monotonic()
            time.sleep(0.05)
        self._heard = time.monotonic()
        return report

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """A part of a file that a report has named."""
        assert self._job is not None
        self._heard = time.monotonic()
        return self._job.read(handle, offset, size)

    def flag(self, path: str) -> None:
        """Put an empty file beside those of the job."""
        assert self._job is not None and self._job.root is not None
        below(self._job.root, path).touch()

    def end(self) -> None:
        """Nothing of a job is left after this."""
        if self._job is not None:
            self._job.end()
        if self._slot is not None:
            self._slot.release()
        self._job = self._slot = None

    def _blob(self, digest: str) -> Path:
        return self._root / "blobs" / digest

    def _watch_over(self) -> None:
        while self._job is None or time.monotonic() - self._heard < lifeline.PATIENCE:
            time.sleep(1)
        os._exit(1)  # and with us, by its lifeline, the job


def _forget_unused(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

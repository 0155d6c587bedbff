"""A slot on a machine of a Ray cluster: an actor that runs one job at a time, as the local executor does.

Where there is no shared folder, a job has a folder of its own in the machine's temporary folder, for as long as it
lasts. What many jobs read, models and data, is kept by content beside it:

    /tmp/bbo-ray-UID/blobs/SHA256    jobs/JOB/PATH ON THE OTHER MACHINE

This class knows no Ray: its methods take and return plain values, and are called one after another.
"""

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import file_digest
from itertools import count
from pathlib import Path
from typing import Any

from bbo import lifeline
from bbo.errors import MachineError
from bbo.executors.carry import contents
from bbo.executors.local import Running
from bbo.executors.protocol import Exit, Launch, Resident
from bbo.executors.slots import Slot, acquire, holders, own_folder, slots_of, visible_gpus
from bbo.store import Evaluation

LOG_BYTES = 1 << 20
"""Most of a log that one report brings."""

UNUSED_SECONDS = 30 * 86400.0
"""What no job has used for so long is deleted."""


class Node:
    """One slot. Its processes end with it, and it ends when nobody has asked after its job for some time."""

    def __init__(self, gpus: int, cpus: int, carried: bool) -> None:
        self._choices = [tuple(visible_gpus()[:gpus])] if gpus else slots_of(0, cpus)
        self._carried = carried
        self._slot: Slot | None = None
        self._job: _Job | None = None
        self._heard = time.monotonic()
        # What stays loaded here hangs on a pipe of ours, as on a driver's.
        end, self._lifeline = os.pipe()
        os.dup2(end, 0)
        os.close(end)
        self._root = own_folder("bbo-ray")
        if carried:
            for name in ("blobs", "jobs"):
                (self._root / name).mkdir(exist_ok=True)
                _forget_unused(self._root / name)
        threading.Thread(target=self._watch_over, name="lease", daemon=True).start()

    def hello(self) -> dict[str, Any]:
        """Where the slot is, and where the folders of its jobs."""
        return {"host": socket.gethostname(), "root": str(self._root / "jobs") if self._carried else None}

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
        file = _below(self._root / "jobs" / job, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("r+b" if offset else "wb") as opened:
            opened.seek(offset)
            opened.write(part)

    def start(self, job: str, orders: Mapping[str, Any]) -> int:
        """Start a job on the slot that is held. A process id of this machine that lives as long as it."""
        assert self._slot is not None
        root = self._root / "jobs" / job if self._carried else None
        if root is not None:
            root.mkdir(exist_ok=True)
            for path, digest in orders["reads"].items():
                file = _below(root, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.unlink(missing_ok=True)
                os.link(self._blob(digest), file)
            for path, text in orders["texts"].items():
                file = _below(root, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        self._job = _Job(job, orders, self._slot, root, self._root / f"workers-{os.getpid()}.json")
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
        _below(self._job.root, path).touch()

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


class _Job:
    """A job under way, and what of its files is known on the other machine."""

    def __init__(self, job: str, orders: Mapping[str, Any], slot: Slot, root: Path | None, note: Path) -> None:
        self.root = root
        log = Path(orders["log"]) if root is None else root / ".log"
        environment, arguments = dict(orders["environment"]), list(orders["arguments"])
        resident = orders["resident"]
        if root is not None:
            environment.pop("PYTHONPATH", None)  # of the other machine; Ray has set ours
            arguments[0] = sys.executable
        if resident is not None:
            words = [arguments[0], *resident["arguments"][1:]]
            resident = Resident(words, resident["loaded"], Path(resident["job"]), note, driven=True)
        launch = Launch(job, arguments, log, lambda slot: None, environment, orders["seconds"], resident)
        self._evaluations = [Evaluation(_below(root, path)) for path in orders["evaluations"]] if root else []
        self._makes = [_below(root, path) for path in orders["makes"]] if root else []
        self._sent: dict[Path, tuple[int, ...]] = {}
        self._numbers = count()
        self._log, self._read = log, 0
        self._how: Exit | None = None
        self._is_told = False
        for _ in self._changed():
            pass
        self._running = Running(launch, slot)
        self.pid = self._running.process.pid

    def report(self) -> dict[str, Any]:
        """Empty where there is nothing to say."""
        if self._is_told:
            return {}
        if self._how is None:
            self._how = self._running.poll()
        report: dict[str, Any] = {}
        if self.root is not None:
            report |= self._news(self.root)
        if self._how is not None and not report:
            self._is_told = True
            report["exit"] = [self._how.status, self._how.timed_out]
        return report

    def _news(self, root: Path) -> dict[str, Any]:
        report: dict[str, Any] = {}
        with suppress(FileNotFoundError), self._log.open("rb") as log:
            log.seek(self._read)
            if said := log.read(LOG_BYTES):
                self._read += len(said)
                report["log"] = said
        if files := [offer for file, kind in self._changed() if (offer := self._offer(root, file, kind))]:
            report["files"] = files
        gone = [file for file in self._sent if not file.exists()]
        if gone:
            report["gone"] = ["/" + str(file.relative_to(root)) for file in gone]
            for file in gone:
                del self._sent[file]
        return report

    def _changed(self) -> Iterator[tuple[Path, str]]:
        """Files that are not as they were sent; of an evaluation weights only with its result, which comes last."""
        for file in self._makes:
            if file.exists() and self._is_new(file):
                yield file, "other"
        for evaluation in self._evaluations:
            has_result = evaluation.result_file.exists()
            found = [(file, _kind(evaluation, file)) for file in contents(evaluation.folder)]
            for file, kind in sorted(found, key=lambda each: each[1] == "final"):
                is_due = has_result or (kind != "weights" and file != evaluation.result_file)
                if is_due and self._is_new(file):
                    yield file, kind

    def _is_new(self, file: Path) -> bool:
        try:
            found = file.stat()
        except FileNotFoundError:
            return False
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        is_new = self._sent.get(file) != state
        self._sent[file] = state
        return is_new

    def _offer(self, root: Path, file: Path, kind: str) -> dict[str, Any] | None:
        """A file as it is now: a link, since the job may put another one in its place before it is read."""
        handle = next(self._numbers)
        link = root / f".offer-{handle}"
        try:
            os.link(file, link)
        except FileNotFoundError:  # a state that its owner needs no more
            return None
        return {"handle": handle, "path": "/" + str(file.relative_to(root)), "size": link.stat().st_size, "kind": kind}

    def read(self, handle: int, offset: int, size: int) -> bytes:
        assert self.root is not None
        link = self.root / f".offer-{handle}"
        with link.open("rb") as file:
            file.seek(offset)
            part = file.read(size)
        if offset + len(part) == link.stat().st_size:
            link.unlink()
        return part

    def end(self) -> None:
        if self._how is None:
            self._running.kill()
        if self.root is not None:
            shutil.rmtree(self.root, ignore_errors=True)


def _kind(evaluation: Evaluation, file: Path) -> str:
    if file in (evaluation.result_file, evaluation.stopped_file):
        return "final"
    return "weights" if {evaluation.adapter, evaluation.model} & set(file.parents) else "other"


def _below(root: Path, path: str) -> Path:
    """Where an absolute path of the other machine stands here."""
    place = Path(root, *Path(path).parts[1:])
    assert ".." not in place.parts, path
    return place


def _forget_unused(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

"""A job at work on another machine than the one that wants it, and what of its files is known there already."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from bbo.executors.carry import contents
from bbo.executors.local import Running
from bbo.executors.protocol import Exit, Launch, Resident
from bbo.executors.slots import Slot
from bbo.store import Evaluation

LOG_BYTES = 1 << 20
"""Most of a log that one report brings."""


class Remote:
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
        self._evaluations = [Evaluation(below(root, path)) for path in orders["evaluations"]] if root else []
        self._makes = [below(root, path) for path in orders["makes"]] if root else []
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


def below(root: Path, path: str) -> Path:
    """Where an absolute path of the other machine stands here."""
    place = Path(root, *Path(path).parts[1:])
    assert ".." not in place.parts, path
    return place

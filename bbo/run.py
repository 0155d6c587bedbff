"""A run folder, runs/NAME: every file name in it, who drives it, and what the run is about."""

import fcntl
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from bbo.errors import InputError, MachineError
from bbo.runlog import RunLog
from bbo.store import Inside, write_json

RUNS = Path("runs")
"""Where the runs of a working folder are."""

ENVIRONMENT = "BBO_RUN"
"""The run folder of a driven blackbox; unset when a native NOMAD or a user calls it."""

MAY_CHANGE = (
    "only budget, resources and display may change; choose another --run NAME, and --store {evals} to train nothing "
    "twice"
)


class Run:
    """The files of one run."""

    log_file = Inside("log.jsonl")
    lock_file = Inside("lock")
    about_file = Inside("run.json")
    session_file = Inside("session.json")
    index_file = Inside("index.sqlite")
    native_index_file = Inside("native.sqlite")
    preflight_file = Inside("preflight.json")
    end_file = Inside("end.json")
    parameters = Inside("params")
    """The params pair, where `bbo.tune` wrote it."""
    driver_log = Inside("driver.log")
    """What the run's process says, where `bbo.tune` started it."""
    worker_file = Inside("worker.json")
    ray_log = Inside("ray.log")
    blackbox_log = Inside("blackbox.log")
    nomad_log = Inside("nomad.log")
    history = Inside("history.txt")
    surrogate_calls = Inside("surrogate.txt")
    temporary = Inside("tmp")
    evals = Inside("evals")
    report = Inside("report")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        return self.folder.name

    def log(self) -> RunLog:
        return RunLog(self.log_file)

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Hold the run folder as its one driver. Raises InputError naming the process that has it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{self.folder}: is a file, not a run folder") from None
        with self.lock_file.open("a+") as lock:
            if not _lock(lock):
                lock.seek(0)
                raise InputError(f"{self.folder}: driven by {lock.read() or 'another process'} already")
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    def remove(self) -> None:
        """Delete the folder: for a run that was refused before its first evaluation."""
        shutil.rmtree(self.folder)
        with suppress(OSError):  # other runs are in it
            self.folder.parent.rmdir()

    def base_score(self) -> dict[str, float] | None:
        """Metrics of the untouched base model, where a job has scored it."""
        try:
            base: dict[str, float] | None = json.loads(self.preflight_file.read_text()).get("base")
        except FileNotFoundError:
            return None
        return base

    def about(self) -> dict[str, Any]:
        """What `settle` noted; empty for a run that is not begun."""
        try:
            recorded: dict[str, Any] = json.loads(self.about_file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise MachineError(f"{self.about_file}: damaged") from None
        return recorded

    def settle(
        self, about: Mapping[str, Any], libraries: Mapping[str, str] = {}, rule: str = MAY_CHANGE
    ) -> dict[str, str]:
        """Note what the run is about, or raise InputError naming what changed since it was begun, and the rule.

        Libraries may change: whether the replay holds will show. Returns their versions when the run was begun.
        """
        recorded = self.about()
        if not recorded:
            write_json(self.about_file, {**about, "libraries": libraries} if libraries else about)
            return dict(libraries)
        then: dict[str, str] = recorded.pop("libraries", {})
        changed = sorted(_changes(recorded, json.loads(json.dumps(about))))
        if changed:
            rule = rule.format(evals=self.evals)
            raise InputError(f"{self.folder}: this run was begun with other settings: {'; '.join(changed)} ({rule})")
        return then

    def note_end(self, status: int, reason: str | None) -> None:
        """Write end.json: how the last start ended; it is not there while a run is under way."""
        with suppress(OSError):  # a full disk may be the very reason
            write_json(self.end_file, {"status": status, "reason": reason})

    def end(self) -> tuple[int, str | None] | None:
        """Exit status and reason; None where there is no such note, as after a kill."""
        try:
            content = json.loads(self.end_file.read_text())
        except FileNotFoundError:
            return None
        return content["status"], content["reason"]

    def stop(self) -> None:
        """End who drives it, in order. Raises InputError where nobody does, or somebody on another host."""
        process, host = self.driver()
        if host != socket.gethostname():
            raise InputError(f"{self.folder}: driven by process {process} on {host}: stop it there")
        os.kill(process, signal.SIGTERM)
        while self.is_driven():
            time.sleep(0.1)

    def driver(self) -> tuple[int, str]:
        """Process and host of who drives the run. Raises InputError where nobody does."""
        if not self.lock_file.is_file():
            raise InputError(f"{self.folder}: no run there")
        if not self.is_driven():
            raise InputError(f"{self.folder}: nobody drives it")
        process, _, host = self.lock_file.read_text().removeprefix("process ").partition(" on ")
        return int(process), host

    def is_driven(self) -> bool:
        """Whether somebody holds the run folder; of another host that shows where the file system shares its locks."""
        try:
            with self.lock_file.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False


def _lock(file: IO[str]) -> bool:
    """Take a driver's lock. Whoever asks whether a run is driven holds it for a moment, and is no driver."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _changes(old: Any, new: Any, place: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {*old, *new}:
            yield from _changes(old.get(name), new.get(name), f"{place}.{name}" if place else name)
    elif old != new:
        yield f"{place} was {json.dumps(old)} and is {json.dumps(new)}"


def lasting(document: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment's YAML without what may change between two starts of a run; fidelities count where one is used."""
    free = {"resources", "accelerate", "relative_to", "fidelity"}
    return {name: content for name, content in document.items() if name not in free}


def find_run(name: str) -> Run:
    """The run of a name (`runs/NAME`) or of a path to a run folder."""
    path = Path(name)
    return Run(path if path.parts != (name,) or path.is_absolute() else RUNS / name)


def run_folders(root: Path) -> Iterator[Path]:
    """The run folders below a folder: its own runs, and those of comparisons (NAME/METHOD/SEED), by name."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        found = [folder / "log.jsonl"] if (folder / "log.jsonl").is_file() else sorted(folder.glob("*/*/log.jsonl"))
        yield from (log.parent for log in found)

"""Jobs on the machines of a Ray cluster, or on a Ray of this machine that begins and ends with the run.

Knows no Ray itself: a process that stays (bbo/executors/broker.py) drives it. Where there is no shared folder, what a
job reads goes to its machine, and what it has made is put in place here, by the process that holds the claims.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from bbo import lifeline
from bbo.errors import InputError, MachineError
from bbo.executors.carry import orders, place
from bbo.executors.protocol import Exit, Files, Launch, Started
from bbo.executors.resident import IDLE_ALONE, IDLE_DRIVEN, socket_file
from bbo.executors.slots import Slot
from bbo.executors.wire import Wire, refusal
from bbo.resources import Resources
from bbo.run import ENVIRONMENT as RUN
from bbo.run import Run
from bbo.store import Evaluation, key_of

POLL = 0.1

ROOT = Path(__file__).parents[2]

PACKAGES = ("bbo", "blackbox")
"""What machines are sent that have no folder in common with this one."""


class Ray:
    """One slot for as many jobs as the cluster has room for."""

    def __init__(self, resources: Resources, run: Run) -> None:
        """Starts nothing. Raises InputError where Ray is not installed."""
        if find_spec("ray") is None:
            raise InputError("resources.executor: ray is not installed: `pip install 'bbo[ray]'`")
        self._options, self._run = resources.ray, run
        self._gpus, self._cpus = resources.on_a_cluster
        self._stays = resources.worker == "resident"
        self._broker: subprocess.Popen[bytes] | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        numbers = range(self._gpus or self._cpus)
        return tuple(str(number) if self._gpus else f"cpu{number}" for number in numbers)

    def count(self) -> int:
        wire = self._connect()
        wire.say({"count": True})
        try:
            (answer,) = wire.hear(None)
        except EOFError:
            raise MachineError(f"Ray has ended, see {self._run.ray_log}") from None
        wire.end()
        if "refused" in answer:
            raise refusal(answer)
        return int(answer["count"])

    def run(
        self, launches: Sequence[Launch], started: Started, tick: Callable[[], None]
    ) -> Iterator[tuple[Launch, Exit]]:
        wire = self._connect()
        jobs = {launch.job: _Job(launch, wire, started, self._options.address is not None) for launch in launches}
        try:
            for name in jobs:
                wire.say({"job": name})
            while jobs:
                for message in wire.hear(POLL):
                    job = jobs[message["job"]]
                    if (how := job.understand(message)) is not None:
                        del jobs[job.launch.job]
                        yield job.launch, how
                for job in jobs.values():
                    job.flag()
                tick()
        except (EOFError, BrokenPipeError):  # the broker died, and Ray ends what it had started
            self._until_gone(jobs.values())
            for job in jobs.values():
                yield job.launch, Exit(-signal.SIGKILL)
        finally:
            wire.end()
            for launch in launches:
                shutil.rmtree(launch.log.with_suffix(".in"), ignore_errors=True)

    def _until_gone(self, jobs: Iterable["_Job"]) -> None:
        """Return when nobody works on these jobs, or nobody can write any more."""
        deadline = time.monotonic() + lifeline.PATIENCE
        pids = [job.pid for job in jobs if job.pid is not None]
        while any(map(psutil.pid_exists, pids)) or (self._is_shared and time.monotonic() < deadline):
            time.sleep(POLL)

    @property
    def _is_shared(self) -> bool:
        """Whether jobs on other machines write into our folders."""
        return self._options.address is not None and self._options.shared_folder

    def _connect(self) -> Wire:
        """To the broker of this run, which is started where there is none."""
        driven = RUN in os.environ and os.environ.get(lifeline.ENVIRONMENT) == "1"
        about = {"run": str(self._run.folder.absolute()), "driven": driven, "python": sys.executable}
        about |= {"options": self._options.model_dump(), "gpus": self._gpus, "cpus": self._cpus}
        file = socket_file(key_of(about))
        with file.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two that come at once start one
            connection = _called(file)
            if connection is None:
                self._start(file, driven)
                connection = _called(file)
        if connection is None:
            raise MachineError(f"Ray has ended as it began, see {self._run.ray_log}")
        return Wire(connection)

    def _start(self, file: Path, driven: bool) -> None:
        """A broker in a session of its own. Under a driver our stdin is the driver's pipe, handed on by NOMAD."""
        options = {
            "socket": str(file),
            "address": self._options.address,
            "carried": self._options.address is not None and not self._options.shared_folder,
            "gpus": self._gpus,
            "cpus": self._cpus,
            "idle": IDLE_DRIVEN if driven or not self._stays else IDLE_ALONE,
            "code": [str(ROOT / name) for name in PACKAGES],
        }
        ours = not driven and not self._stays  # it ends with this very process
        self._run.folder.mkdir(parents=True, exist_ok=True)
        with self._run.ray_log.open("ab") as log:
            self._broker = subprocess.Popen(
                [sys.executable, "-m", "bbo.executors.broker", json.dumps(options)],
                stdin=subprocess.PIPE if ours else None if driven else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={
                    **os.environ,
                    **({} if self._options.address else _of_this_machine_alone()),
                    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
                    lifeline.ENVIRONMENT: "1" if driven or ours else "0",
                },
                start_new_session=True,
            )
        assert self._broker.stdout is not None
        with self._broker.stdout as told:
            said = told.readline()
        if not said:
            raise MachineError(f"Ray could not be started, see {self._run.ray_log}")
        if "refused" in (answer := json.loads(said)):
            raise refusal(answer)


class _Job:
    """What this side knows of a job."""

    def __init__(self, launch: Launch, wire: Wire, started: Started, is_cluster: bool) -> None:
        self.launch = launch
        self.pid: int | None = None
        """Of this machine."""
        self._wire, self._started, self._is_cluster = wire, started, is_cluster
        self._flags: list[Path] = []
        self._root, self._files = "", Files({}, {})

    def understand(self, message: Mapping[str, Any]) -> Exit | None:
        """Do what a message asks for. Its exit, where it says that the job has ended. Raises MachineError."""
        if "placed" in message:
            self._order(message)
        elif "started" in message:
            if not self._is_cluster:
                self.pid = message["started"]
                self._started(self.launch, self.pid)
        elif "arrived" in message:
            self._require_ours([*(path for _, path in message["arrived"]), *message["gone"]])
            place(message["arrived"], self._root)
            for path in message["gone"]:
                Path(path).unlink(missing_ok=True)
        elif "weights_of" in message:
            result = json.loads(Path(message["result"]).read_bytes())
            self._say({"wanted": self._files.keeps(Path(message["weights_of"]), result)})
        elif "waits" in message:
            print(message["waits"], file=sys.stderr, flush=True)
        elif "refused" in message:
            raise refusal(message)
        else:
            return Exit(message["ended"], message.get("timed_out", False))
        return None

    def flag(self) -> None:
        """Pass on a user's file `stop`."""
        for file in [file for file in self._flags if file.exists()]:
            self._flags.remove(file)
            self._say({"flag": str(file)})

    def _require_ours(self, paths: Sequence[str]) -> None:
        """Another machine changes the files that this job makes and no other. Raises MachineError."""
        for path in map(Path, paths):
            inside = any(folder in path.parents for folder in self._files.evaluations)
            if ".." in path.parts or not (inside or path in self._files.makes):
                raise MachineError(f"{self.launch.job}: no file of this job was to come back: {path}")

    def _order(self, message: Mapping[str, Any]) -> None:
        self.launch.prepare(Slot(message["placed"], tuple(message["devices"]), ()))
        self.launch.log.parent.mkdir(parents=True, exist_ok=True)
        if message["root"] is not None:
            self._root, self._files = message["root"], self.launch.files()
            told = orders(self.launch, self._files, self._root)
            self._flags = [Evaluation(Path(folder)).stop_file for folder in told["evaluations"]]
        else:
            told = _plain_orders(self.launch)
            if self._is_cluster:
                self._started(self.launch, None)
        self._say({"orders": {**told, "log": str(self.launch.log.absolute())}})

    def _say(self, message: Mapping[str, Any]) -> None:
        self._wire.say({"job": self.launch.job, **message})


def _plain_orders(launch: Launch) -> dict[str, Any]:
    """Where all machines see our folders."""
    resident = launch.resident and {
        "arguments": list(launch.resident.arguments),
        "loaded": launch.resident.loaded,
        "job": str(launch.resident.job.absolute()),
    }
    about = {"arguments": list(launch.arguments), "environment": dict(launch.environment)}
    return {**about, "seconds": launch.seconds, "resident": resident, "evaluations": []}


def _called(file: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(file))
    except (FileNotFoundError, ConnectionError):
        connection.close()
        return None
    return connection


def _of_this_machine_alone() -> dict[str, str]:
    """For a Ray that listens on localhost, and there to nobody who has not our token."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's word for localhost only, on Linux too
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }

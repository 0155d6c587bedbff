"""The slots of a Ray cluster: actors (bbo/executors/node.py) that stay from job to job. Imports Ray."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayActorError

from bbo.errors import InputError
from bbo.executors.node import Node
from bbo.executors.slots import cores, own_folder

LOOK = 1.0

OBJECT_STORE = 128 << 20
"""Bytes for a Ray of this machine alone, where nothing large travels."""

UNUSED = 120.0
"""Seconds after which an actor without a job gives back what it has reserved, and its model."""

MOST_STILLBORN = 10
"""Of them it is no longer to be thought that their machines died."""

SLOW = 10.0
"""Seconds that an actor may take to start where there is room for it."""

LONGEST = 40
"""Characters of a folder below which Ray's sockets still fit into the 107 bytes of an address."""


class Cancelled(Exception):
    """Nobody wants the job any more."""


@dataclass(frozen=True)
class Actor:
    """One slot of the cluster, in use or free."""

    handle: Any
    host: str
    root: str | None
    """The folder of its jobs, where their files travel."""
    since: float = 0.0
    """When it became free."""


class Pool:
    """At most as many actors as the cluster has room for; one that is free is used before another is made."""

    def __init__(self, address: str | None, gpus: int, cpus: int, carried: bool, code: Sequence[str]) -> None:
        """Raises ConnectionError where no cluster answers at the address."""
        self._gpus, self._cpus, self._carried = gpus, cpus, carried
        self._free: list[Actor] = []
        self._line: list[object] = []
        self._count = 0
        self._stillborn = 0
        """Actors in a row that died before they said hello."""
        self._lock = threading.Lock()
        self._sending: dict[str, threading.Lock] = {}
        self._folder = None if address is not None else _own_folder()
        if self._folder is not None:
            _begin(self._folder)
        else:
            where = {"py_modules": list(code)} if carried else {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
            ray.init(address, runtime_env=where, log_to_driver=False, logging_level=logging.ERROR)
        self._make: Any = ray.remote(Node).options(
            num_gpus=gpus, num_cpus=cpus, scheduling_strategy="SPREAD", max_restarts=0, max_task_retries=0
        )

    def count(self) -> int:
        """Slots of the cluster as it is now. Raises InputError where no machine has room for a job."""
        if (count := self._slots()) == 0:
            asked = f"{self._gpus} GPUs and {self._cpus} CPUs"
            raise InputError(f"resources: {asked} asked for a job, and no machine of the Ray cluster has them")
        return count

    def _slots(self) -> int:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(self._room(node.get("GPU", 0), node.get("CPU", 0)) for node in nodes)

    def _room(self, gpus: float, cpus: float) -> int:
        return int(min(cpus // self._cpus, gpus // self._gpus if self._gpus else cpus // self._cpus))

    def stand_in_line(self, job: object) -> None:
        """Jobs are served in this order."""
        with self._lock:
            self._line.append(job)

    def take(self, job: object, cancelled: threading.Event, waits: Callable[[str], None]) -> Actor:
        """A free actor for this job, or a new one, as soon as it is its turn and there is room. Raises Cancelled."""
        try:
            while True:
                with self._lock:
                    is_first = self._line[0] is job
                    if is_first and self._free:
                        return self._free.pop()
                    is_new = is_first and (self._count < self._slots() or not self._count)
                    if is_new:
                        self._count += 1
                        self._line.remove(job)  # who comes next need not wait until this one is made
                if is_new and (actor := self._new(cancelled, waits)) is not None:
                    return actor
                if is_new:
                    with self._lock:
                        self._line.insert(0, job)
                if cancelled.wait(LOOK / 20):
                    raise Cancelled
        finally:
            with self._lock:
                self._line = [other for other in self._line if other is not job]

    def _new(self, cancelled: threading.Event, waits: Callable[[str], None]) -> Actor | None:
        """None where another became free before there was room for this one, or where its machine is gone.

        Ray may take a while to notice that, and give a dead machine actors until then.
        """
        handle: Any = self._make.remote(self._gpus, self._cpus, self._carried)
        try:
            said, began = handle.hello.remote(), time.monotonic()
            while True:
                with suppress(GetTimeoutError):
                    actor = Actor(handle, **ray.get(said, timeout=LOOK))
                    self._stillborn = 0
                    return actor
                if cancelled.is_set():
                    raise Cancelled
                with self._lock:
                    if self._free:
                        break
                if time.monotonic() - began > SLOW:
                    waits(f"waiting for a machine of the Ray cluster with {self._gpus} GPUs and {self._cpus} CPUs free")
        except RayActorError as error:
            self._lose(handle)
            with self._lock:
                self._stillborn += 1
                if error.actor_init_failed or self._stillborn >= MOST_STILLBORN:
                    raise
            return None
        except BaseException:
            self._lose(handle)
            raise
        self._lose(handle)
        return None

    def give(self, actor: Actor) -> None:
        with self._lock:
            self._free.append(replace(actor, since=time.monotonic()))

    def release(self) -> None:
        """Leave to others what has been free for long: the cluster may be shared, and a search may pause."""
        before = time.monotonic() - UNUSED
        with self._lock:
            unused = [actor for actor in self._free if actor.since < before]
            self._free = [actor for actor in self._free if actor.since >= before]
        for actor in unused:
            self.drop(actor)

    def drop(self, actor: Actor) -> None:
        """It is dead, no good any more, or not needed."""
        self._lose(actor.handle)

    def _lose(self, handle: Any) -> None:
        with suppress(Exception):  # it may be dead already
            ray.kill(handle)
        with self._lock:
            self._count -= 1

    def sending_to(self, actor: Actor) -> threading.Lock:
        """Held by who sends contents to this machine, so that no other sends the same ones."""
        with self._lock:
            return self._sending.setdefault(f"{actor.host}:{actor.root}", threading.Lock())

    def close(self) -> None:
        """Leave the cluster, or end the Ray of our own."""
        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _begin(folder: Path) -> None:
    """A Ray of this machine alone: it listens on no other interface, and to nobody who has not our token."""
    ray.init(
        "local",
        num_cpus=cores(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE,
        _temp_dir=str(folder),
    )


def _own_folder() -> Path:
    """For the files of a Ray; those of brokers that were killed are deleted."""
    parent = own_folder("bbo-ray-local")
    if len(str(parent)) > LONGEST:
        parent = own_folder("bbo-ray-local", "/tmp")
    for other in parent.iterdir():
        if not psutil.pid_exists(int(other.name)):
            shutil.rmtree(other, ignore_errors=True)
    folder = parent / str(os.getpid())
    folder.mkdir()
    return folder

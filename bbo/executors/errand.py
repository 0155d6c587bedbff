"""One job of a run on a Ray cluster, from its slot to its end: what its files need is carried. Imports Ray."""

import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from bbo.executors.pool import LOOK, Actor, Cancelled, Pool
from bbo.executors.wire import Wire, refused
from bbo.store import Evaluation

PART = 32 << 20
"""Bytes of a file that travel at a time."""

WATCH = 0.5
"""Seconds after which an actor answers though nothing happened to its job."""

PATIENCE = 20.0
"""Seconds for the end of a job that is killed."""


class Errand(threading.Thread):
    """One job from its slot to its end."""

    def __init__(self, job: str, wire: Wire, pool: Pool, cancelled: threading.Event) -> None:
        super().__init__(name=job, daemon=True)
        self._job, self._wire, self._pool, self._cancelled = job, wire, pool, cancelled
        self._answers = queue.SimpleQueue[dict[str, Any]]()
        self._flags = queue.SimpleQueue[str]()
        self._said = ""
        pool.stand_in_line(self)

    def tell(self, message: dict[str, Any]) -> None:
        """Hand on what the blackbox says."""
        if "flag" in message:
            self._flags.put(message["flag"])
        else:
            self._answers.put(message)

    def run(self) -> None:
        actor, started, ended = None, False, {}
        try:
            while not started:
                actor = self._pool.take(self, self._cancelled, self._wait)
                try:
                    orders = self._prepare(actor)
                    started = True
                except RayActorError:  # it was idle on a machine that is gone
                    self._pool.drop(actor)
                    self._pool.stand_in_line(self)
                    actor = None
            assert actor is not None
            ended = self._watch(actor, orders)
        except Cancelled:
            pass
        except RayTaskError as error:  # what a method of Node has raised
            ended = refused(f"{actor.host if actor else 'Ray'}: {error.cause}")
        except RayError as error:
            print(f"{self._job}: {error}", file=sys.stderr, flush=True)
            # Once the job has started it died with its machine or actor; before, nothing can start there.
            ended = {"ended": -signal.SIGKILL} if started else refused(str(error).splitlines()[0])
        except Exception as error:  # whatever it is, the blackbox must hear of it
            traceback.print_exc()
            ended = refused(f"{type(error).__name__}: {error}")
        if actor is not None:
            self._leave(actor)
        if started and self._cancelled.is_set():
            shutil.rmtree(_spool(orders), ignore_errors=True)
        with suppress(OSError):  # a blackbox that is gone
            self._say(ended)

    def _prepare(self, actor: Actor) -> dict[str, Any]:
        """Get devices, orders for what is to be done on them, and what it takes to the machine."""
        while "slot" not in (found := self._call(actor.handle.acquire)):
            self._wait(f"waiting for a device of {actor.host} held by {found['holders']}")
            self._pause(LOOK)
        root = None if actor.root is None else f"{actor.root}/{self._job}"
        self._say({"placed": found["slot"], "devices": found["devices"], "root": root})
        orders: dict[str, Any] = self._hear()["orders"]
        if root is not None:
            with self._pool.sending_to(actor):
                files = {digest: path for path, digest in orders["reads"].items()}
                for digest in self._call(actor.handle.lacks, list(files)):
                    self._send(files[digest], actor.handle.put, digest)
            for path in orders["along"]:
                self._send(path, actor.handle.bring, self._job, path)
        return orders

    def _watch(self, actor: Actor, orders: dict[str, Any]) -> dict[str, Any]:
        self._say({"started": self._call(actor.handle.start, self._job, orders)})
        while True:
            while not self._flags.empty():
                self._call(actor.handle.flag, self._flags.get())
            report = self._call(actor.handle.watch, WATCH)
            if "exit" in report:
                status, timed_out = report["exit"]
                return {"ended": status, "timed_out": timed_out}
            if "log" in report:
                with open(orders["log"], "ab") as log:
                    log.write(report["log"])
            if "files" in report or "gone" in report:
                arrived = self._take(actor, orders, report.get("files", []))
                self._say({"arrived": arrived, "gone": report.get("gone", [])})

    def _take(self, actor: Actor, orders: dict[str, Any], files: list[dict[str, Any]]) -> list[tuple[str, str]]:
        """Fetch these files: (where each lies now, where it belongs), the final ones last."""
        spool = _spool(orders)
        spool.mkdir(exist_ok=True)
        fetched = {f["path"]: self._fetch(actor, f, spool) for f in files if f["kind"] != "weights"}
        for folder in orders["evaluations"]:
            weights = [f for f in files if f["kind"] == "weights" and f["path"].startswith(f"{folder}/")]
            if weights:
                self._say({"weights_of": folder, "result": fetched[str(Evaluation(Path(folder)).result_file)]})
                if self._hear()["wanted"]:
                    fetched |= {f["path"]: self._fetch(actor, f, spool) for f in weights}
        last = [f["path"] for f in files if f["kind"] == "final"]
        return [(fetched[path], path) for path in (*(path for path in fetched if path not in last), *last)]

    def _fetch(self, actor: Actor, file: dict[str, Any], spool: Path) -> str:
        ready = spool / str(file["handle"])
        with ready.open("wb") as opened:
            while opened.tell() < file["size"]:
                size = min(PART, file["size"] - opened.tell())
                opened.write(self._call(actor.handle.read, file["handle"], opened.tell(), size))
        return str(ready)

    def _send(self, path: str, method: Any, *about: str) -> None:
        """A file, part by part: method(*about, offset, part, whether it is the last)."""
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            for offset in range(0, max(size, 1), PART):
                self._call(method, *about, offset, file.read(PART), offset + PART >= size)

    def _call(self, method: Any, *arguments: Any) -> Any:
        """What an actor's method returns. Raises Cancelled and RayError."""
        answer = method.remote(*arguments)
        while True:
            self._pause(0)
            with suppress(GetTimeoutError):
                return ray.get(answer, timeout=LOOK)

    def _hear(self) -> dict[str, Any]:
        while True:
            with suppress(queue.Empty):
                return self._answers.get(timeout=LOOK)
            self._pause(0)

    def _pause(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise Cancelled

    def _wait(self, sentence: str) -> None:
        if self._said != sentence:
            self._say({"waits": sentence})
        self._said = sentence

    def _say(self, message: dict[str, Any]) -> None:
        self._wire.say({"job": self._job, **message})

    def _leave(self, actor: Actor) -> None:
        """Free the actor once nothing of the job is left; where that cannot be had, end it."""
        try:
            ray.get(actor.handle.end.remote(), timeout=PATIENCE)
            self._pool.give(actor)
        except RayError:
            self._pool.drop(actor)


def _spool(orders: dict[str, Any]) -> Path:
    """Where a job's files lie before they are put in place."""
    return Path(orders["log"]).with_suffix(".in")

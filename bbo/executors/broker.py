"""The Ray driver of a run: `python -m bbo.executors.broker OPTIONS`, a process that outlives single blocks.

Ray ends the actors of a driver that is gone; a blackbox is gone after each block, and its model would be loaded anew.
So this process drives Ray, and a blackbox (bbo/executors/ray.py) tells it what to do, through a Unix socket in an
owner-only folder. A connection is the lifeline of its jobs. All messages are lines of JSON:

    -> {"count": true}                         <- {"count": N}
    -> {"job": JOB}                            <- {"job": JOB, "placed": SLOT, "devices": [...], "root": FOLDER or null}
    -> {"job": JOB, "orders": {...}}           <- {"job": JOB, "started": PID}
                                               <- {"job": JOB, "arrived": [[FILE, TARGET]...], "gone": [TARGET...]}
                                               <- {"job": JOB, "weights_of": FOLDER, "result": FILE}
    -> {"job": JOB, "wanted": true or false}   <- {"job": JOB, "waits": SENTENCE}
    -> {"job": JOB, "flag": TARGET}            <- {"job": JOB, "ended": STATUS, "timed_out": true or false}

or, to any of them, {"refused": SENTENCE, "kind": "input" or "machine"}. It ends with its driver (bbo/lifeline.py), or
after an idle time, and with it a Ray that it has started.
"""

import json
import os
import queue
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbo import lifeline
from bbo.errors import InputError
from bbo.executors.serve import listen
from bbo.executors.wire import Wire
from bbo.store import Evaluation

if TYPE_CHECKING:
    from bbo.executors.pool import Actor, Pool

PART = 32 << 20
"""Bytes of a file that travel at a time."""

WATCH = 0.5
"""Seconds after which an actor answers though nothing happened to its job."""

LOOK = 1.0
"""Seconds between two looks at whether anybody still wants a job."""

PATIENCE = 20.0
"""Seconds for the end of a job that is killed."""


@dataclass(frozen=True)
class Options:
    """What a broker is told when it is started."""

    socket: str
    address: str | None
    carried: bool
    """Whether jobs' files travel, there being no shared folder."""
    gpus: int
    cpus: int
    idle: float
    code: list[str]
    """The folders of the packages that jobs run."""


def main() -> int:
    options = Options(**json.loads(sys.argv[1]))
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is for the log
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from bbo.executors.pool import Pool  # noqa: PLC0415 - Ray takes a second, and may be missing

    try:
        pool = Pool(options.address, options.gpus, options.cpus, options.carried, options.code)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        print(json.dumps(_refused(f"resources.ray.address: {said}")), file=told, flush=True)
        return 1
    lifeline.watch(pool.close, outlives_parent=True)

    def ready() -> None:
        print("{}", file=told, flush=True)
        told.close()

    try:
        Broker(pool, options).serve(ready)
    finally:
        pool.close()
    return 0


class Broker:
    """Serves blackboxes, several at a time."""

    def __init__(self, pool: "Pool", options: Options) -> None:
        self._pool, self._options = pool, options
        self._calls: list[threading.Thread] = []

    def serve(self, ready: Callable[[], None]) -> None:
        """Until nobody has come for the idle time."""
        file = Path(self._options.socket)
        with listen(file) as listener:
            ready()
            since = time.monotonic()
            while self._calls or time.monotonic() - since < self._options.idle:
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    self._calls.append(threading.Thread(target=self._attend, args=[connection], daemon=True))
                    self._calls[-1].start()
                self._calls = [call for call in self._calls if call.is_alive()]
                if self._calls:
                    since = time.monotonic()
            file.unlink(missing_ok=True)

    def _attend(self, connection: socket.socket) -> None:
        """Do what one blackbox wants, until it says no more; then nothing of it is at work."""
        wire, cancelled = Wire(connection), threading.Event()
        jobs: dict[str, _Job] = {}
        try:
            while True:
                for message in wire.hear(None):
                    if "job" not in message:
                        self._count(wire)
                    elif message["job"] in jobs:
                        jobs[message["job"]].tell(message)
                    else:
                        jobs[message["job"]] = _Job(message["job"], wire, self._pool, cancelled)
                        jobs[message["job"]].start()
        except (EOFError, OSError):
            cancelled.set()
        for job in jobs.values():
            job.join()
        connection.close()

    def _count(self, wire: Wire) -> None:
        try:
            wire.say({"count": self._pool.count()})
        except InputError as error:
            wire.say({"refused": str(error), "kind": "input"})


class _Job(threading.Thread):
    """One job from its slot to its end."""

    def __init__(self, job: str, wire: Wire, pool: "Pool", cancelled: threading.Event) -> None:
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
        from ray.exceptions import RayActorError, RayError, RayTaskError  # noqa: PLC0415

        from bbo.executors.pool import Cancelled  # noqa: PLC0415

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
            ended = _refused(f"{actor.host if actor else 'Ray'}: {error.cause}")
        except RayError as error:
            print(f"{self._job}: {error}", file=sys.stderr, flush=True)
            # Once the job has started it died with its machine or actor; before, nothing can start there.
            ended = {"ended": -signal.SIGKILL} if started else _refused(str(error).splitlines()[0])
        except (InputError, OSError) as error:
            ended = _refused(str(error), "input" if isinstance(error, InputError) else "machine")
        if actor is not None:
            self._leave(actor)
        if started and self._cancelled.is_set():
            shutil.rmtree(_spool(orders), ignore_errors=True)
        with suppress(OSError):  # a blackbox that is gone
            self._say(ended)

    def _prepare(self, actor: "Actor") -> dict[str, Any]:
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

    def _watch(self, actor: "Actor", orders: dict[str, Any]) -> dict[str, Any]:
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

    def _take(self, actor: "Actor", orders: dict[str, Any], files: list[dict[str, Any]]) -> list[tuple[str, str]]:
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

    def _fetch(self, actor: "Actor", file: dict[str, Any], spool: Path) -> str:
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
        import ray  # noqa: PLC0415
        from ray.exceptions import GetTimeoutError  # noqa: PLC0415

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
        from bbo.executors.pool import Cancelled  # noqa: PLC0415

        if self._cancelled.wait(seconds):
            raise Cancelled

    def _wait(self, sentence: str) -> None:
        if self._said != sentence:
            self._say({"waits": sentence})
        self._said = sentence

    def _say(self, message: dict[str, Any]) -> None:
        self._wire.say({"job": self._job, **message})

    def _leave(self, actor: "Actor") -> None:
        """Free the actor once nothing of the job is left; where that cannot be had, end it."""
        import ray  # noqa: PLC0415
        from ray.exceptions import RayError  # noqa: PLC0415

        try:
            ray.get(actor.handle.end.remote(), timeout=PATIENCE)
            self._pool.give(actor)
        except RayError:
            self._pool.drop(actor)


def _spool(orders: dict[str, Any]) -> Path:
    """Where a job's files lie before they are put in place."""
    return Path(orders["log"]).with_suffix(".in")


def _refused(sentence: str, kind: str = "machine") -> dict[str, Any]:
    return {"refused": sentence, "kind": kind}


if __name__ == "__main__":
    sys.exit(main())

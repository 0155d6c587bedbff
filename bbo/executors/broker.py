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
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bbo import lifeline
from bbo.errors import InputError
from bbo.executors.serve import listen
from bbo.executors.wire import Wire, refused

if TYPE_CHECKING:
    from bbo.executors.pool import Pool


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
        print(json.dumps(refused(f"resources.ray.address: {said}")), file=told, flush=True)
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
                self._pool.release()
            file.unlink(missing_ok=True)
            with suppress(TimeoutError):  # who called a moment ago
                self._attend(listener.accept()[0])

    def _attend(self, connection: socket.socket) -> None:
        """Do what one blackbox wants, until it says no more; then nothing of it is at work."""
        from bbo.executors.errand import Errand  # noqa: PLC0415 - it imports Ray

        wire, cancelled = Wire(connection), threading.Event()
        jobs: dict[str, Errand] = {}
        try:
            while True:
                for message in wire.hear(None):
                    if "job" not in message:
                        self._count(wire)
                    elif message["job"] in jobs:
                        jobs[message["job"]].tell(message)
                    else:
                        jobs[message["job"]] = Errand(message["job"], wire, self._pool, cancelled)
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
            wire.say(refused(str(error), "input"))
        except Exception as error:  # whatever Ray raises where its head is gone
            wire.say(refused(f"the Ray cluster: {error}"))


if __name__ == "__main__":
    sys.exit(main())

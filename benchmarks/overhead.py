"""`python -m benchmarks.overhead`: what the harness adds to an evaluation, by how many are stored already.

The toy's run folder and store are filled with that many evaluations; then the functions that a call of the blackbox
runs are timed in this process, from reading the experiment to the line for NOMAD. Start of Python and imports are
apart. It measures and judges nothing.
"""

import argparse
import io
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console

from bbo.display import Display
from bbo.experiment import FULL, read_experiment
from bbo.guard import Guard, Limits
from bbo.index import Index
from bbo.points import format_answer, format_point
from bbo.replay import take
from bbo.run import ENVIRONMENT as RUN
from bbo.run import Run
from bbo.runlog import Answer, RunLog
from bbo.session import ENVIRONMENT as SESSION
from bbo.session import open_session
from bbo.space import Point
from bbo.store import Store
from benchmarks import report
from blackbox import __main__ as blackbox
from blackbox.block import Blackbox

YAML = Path(__file__).parent.parent / "params" / "toy.yaml"

KINDS = {
    "new": "a new evaluation, recorded",
    "flushing": "    of it: flushing to disk (fsync)",
    "rest": "    the rest",
    "cpu": "    processor time, whatever else the machine does",
    "stored": "a new ask, answered from the store",
    "replayed": "a recorded ask, answered from the log",
    "first": "the first call of a session, which makes the index (once)",
    "poll_new": "driver: a poll with one new answer",
    "poll": "driver: a poll with none",
    "process": "a new evaluation as a whole process (Python's start, imports)",
}


class Filled:
    """A run folder and a store with `count` evaluations, and `extra` more that only the store knows."""

    def __init__(self, folder: Path, count: int, extra: int) -> None:
        self.count = count
        self.taken = 0
        self.seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.run = Run(folder)
        self.store = Store(self.run.evals)
        self.experiment = read_experiment(YAML)
        self.blackbox = Blackbox(self.experiment, self.store, self.run.preflight_file)
        self._random = random.Random(0)
        self._heard: dict[Point, str] = {}
        with patch("os.fsync"):  # durability is timed later; here it would cost minutes
            log = self.run.log()
            self.points = [self._fill(log) for _ in range(count)]
            self.stored = [self._fill(None) for _ in range(extra)]

    def point(self) -> Point:
        """A point not asked for before."""
        draw = self._random
        whole = [float(draw.randint(1, top)) for top in (6, 64, 4)]
        return (*whole, round(draw.uniform(-5, -3), 9))  # none of them diverges

    def session(self, done: int) -> None:
        """A NOMAD that was led through the first `done` evaluations."""
        session = open_session(self.run, self.run.log(), self.store, None, in_order=True)
        taken = self.points[:done]
        if taken:
            take(self.run, Index(self.run, session), session, taken, [self._key(point) for point in taken])
        with self.run.history.open("a") as history:
            history.writelines(f"{format_point(point)} {self._heard[point]}\n" for point in taken)
        self._session, self.taken = session.name, done

    def call(self, point: Point, ask: Callable[[Path], str]) -> float:
        """Seconds of one call of the blackbox; afterwards NOMAD has noted what it was told."""
        file = self.run.folder / "point.txt"
        file.write_text(format_point(point) + "\n")
        os.environ[SESSION] = self._session
        began = time.perf_counter()
        line = ask(file)
        seconds = time.perf_counter() - began
        with self.run.history.open("a") as history:
            history.write(f"{format_point(point)} {line}")
        return seconds

    def time(self, kind: str, point: Point, ask: Callable[[Path], str]) -> None:
        self.seconds[kind].append(self.call(point, ask))

    def medians(self) -> dict[str, float]:
        """Milliseconds of each kind; the one that this count has no room for is left out."""
        return {kind: 1000 * statistics.median(seconds) for kind, seconds in self.seconds.items() if seconds}

    def in_process(self, point_file: Path) -> str:
        return blackbox._run(str(self.run.folder), YAML, point_file, FULL)

    def as_process(self, point_file: Path) -> str:
        command = [sys.executable, "-m", "blackbox", str(YAML), str(point_file)]
        environment = os.environ | {RUN: str(self.run.folder)}
        return subprocess.run(
            command, env=environment, check=True, text=True, start_new_session=True, stdout=subprocess.PIPE
        ).stdout

    def _key(self, point: Point) -> str:
        return self.blackbox.candidate(self.experiment.space.decode(point), point).key

    def _fill(self, log: RunLog | None) -> Point:
        point = self.point()
        candidate = self.blackbox.candidate(self.experiment.space.decode(point), point)
        if log:
            with log.locked():
                log.ask([point], [candidate.key])

        def told(_: object, result: Any, source: Any) -> None:
            good = result.status == "ok"
            values = tuple(o.value(result.metrics) if good else o.failed for o in self.experiment.outputs)
            self._heard[point] = format_answer(values, len(values))
            if log:
                log.answer(Answer(len(log.asks), values, source, time.time(), result.job, result.reason))

        self.blackbox.evaluate([candidate], told)
        return point


def measure(folder: Path, counts: Sequence[int], calls: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each kind, by number of stored evaluations.

    The counts take turns at every call, so that what else the machine does disturbs them alike.
    """
    every = [Filled(folder / str(count), count, calls) for count in counts]
    _replay(every, calls)
    for turn in range(calls):
        for filled in every:
            filled.time("stored", filled.stored[turn], filled.in_process)
    polls = [_driver(filled) for filled in every]
    for _ in range(calls):
        for filled, poll in zip(every, polls, strict=True):
            _evaluate(filled)
            filled.seconds["poll_new"].append(poll())
            filled.seconds["poll"].append(poll())
    for _ in range(min(calls, 5)):
        for filled in every:
            filled.time("process", filled.point(), filled.as_process)
    return {str(filled.count): filled.medians() for filled in every}


def _replay(every: Sequence[Filled], calls: int) -> None:
    """First calls of sessions, and the last recorded asks of one."""
    for _ in range(3):
        for filled in every:
            filled.session(0)
            filled.time("first", filled.points[0], filled.in_process)
    for filled in every:
        filled.session(filled.count - min(calls, filled.count // 2) - 1)
        filled.call(filled.points[filled.taken], filled.in_process)  # the one that checks all that was taken
    for turn in range(calls):
        for filled in every:
            if (place := filled.taken + 1 + turn) < filled.count:
                filled.time("replayed", filled.points[place], filled.in_process)


def _evaluate(filled: Filled) -> None:
    """A new evaluation, with and without the time of flushing to disk."""
    with flushing() as flushed:
        began = time.process_time()
        filled.time("new", filled.point(), filled.in_process)
        filled.seconds["cpu"].append(time.process_time() - began)
    filled.seconds["flushing"].append(sum(flushed))
    filled.seconds["rest"].append(filled.seconds["new"][-1] - sum(flushed))


@contextmanager
def flushing() -> Iterator[list[float]]:
    """The seconds of each call of os.fsync within."""
    flushed: list[float] = []
    fsync = os.fsync

    def timed(file: Any) -> None:
        began = time.perf_counter()
        fsync(file)
        flushed.append(time.perf_counter() - began)

    with patch("os.fsync", timed):
        yield flushed


def _driver(filled: Filled) -> Callable[[], float]:
    """A driver's look at the run, display included; returns its seconds."""
    limits = Limits(max_hours=1e6, max_gpu_hours=1e6)
    guard = Guard(filled.run, filled.experiment, filled.store, limits, filled.run.log())
    display = Display(filled.run, filled.experiment, filled.store, None, Console(file=io.StringIO()))
    display.replaying(guard.log)

    def poll() -> float:
        began = time.perf_counter()
        guard.look(display)
        return time.perf_counter() - began

    poll()
    return poll


def trend(counts: Sequence[int], milliseconds: Sequence[float]) -> str:
    """One line: whether the time grows with the number of evaluations, beyond a quarter and half a millisecond."""
    first, last = milliseconds[0], milliseconds[-1]
    grows = last > 1.25 * first + 0.5
    words = f"from {first:.2f} ms at {counts[0]} to {last:.2f} ms at {counts[-1]} stored evaluations"
    return f"a new evaluation without flushing: {words}: it {'GROWS' if grows else 'does not grow'}"


def main() -> None:
    """Print the table, and write it as JSON if wished."""
    parser = argparse.ArgumentParser("python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--counts", default="10,1000,10000", help="stored evaluations (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=21, help="calls of each kind, whose median counts (default: 21)")
    parser.add_argument("--keep", action="store_true", help="keep the run folders that were filled")
    options = parser.parse_args()
    counts = sorted(int(word) for word in options.counts.split(","))
    folder = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        measured = measure(folder, counts, max(3, options.calls))
    finally:
        if options.keep:
            print(f"run folders: {folder}")
        else:
            shutil.rmtree(folder)
    rows = [[title, *(each.get(kind, "") for each in measured.values())] for kind, title in KINDS.items()]
    report.table("milliseconds per call", ["stored evaluations", *measured], rows)
    line = trend(counts, [each["rest"] for each in measured.values()])
    print(line)
    if options.json:
        new = {count: each["new"] for count, each in measured.items()}
        content = {"ms_per_evaluation": new, "ms": measured, "trend": line, "calls": options.calls}
        report.write(options.json, content)


if __name__ == "__main__":
    main()

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
from bbo.driver import Driver, Limits
from bbo.experiment import read_experiment
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
        os.environ[SESSION] = session.name

    def call(self, point: Point, ask: Callable[[Path], str]) -> float:
        """Seconds of one call of the blackbox; afterwards NOMAD has noted what it was told."""
        file = self.run.folder / "point.txt"
        file.write_text(format_point(point) + "\n")
        began = time.perf_counter()
        line = ask(file)
        seconds = time.perf_counter() - began
        with self.run.history.open("a") as history:
            history.write(f"{format_point(point)} {line}")
        return seconds

    def in_process(self, point_file: Path) -> str:
        return blackbox._run(str(self.run.folder), YAML, point_file)

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


def measure(folder: Path, count: int, calls: int) -> dict[str, Any]:
    """Median milliseconds of each kind with `count` stored evaluations; and the share of flushing to disk."""
    filled = Filled(folder, count, calls)
    replayed = min(calls, count // 2)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    flushes: list[float] = []

    for _ in range(3):
        filled.session(0)
        seconds["first"].append(filled.call(filled.points[0], filled.in_process))
    filled.session(count - replayed - 1)
    filled.call(filled.points[count - replayed - 1], filled.in_process)  # the one that checks all that was taken
    for point in filled.points[count - replayed :]:
        seconds["replayed"].append(filled.call(point, filled.in_process))
    for point in filled.stored:
        seconds["stored"].append(filled.call(point, filled.in_process))
    poll = _driver(filled)
    for _ in range(calls):
        with _timed_flushes() as flushed:
            seconds["new"].append(filled.call(filled.point(), filled.in_process))
        flushes.append(sum(flushed))
        seconds["poll_new"].append(poll())
        seconds["poll"].append(poll())
    for _ in range(min(calls, 5)):
        seconds["process"].append(filled.call(filled.point(), filled.as_process))
    medians = {kind: 1000 * statistics.median(times) for kind, times in seconds.items()}
    return {**medians, "flushing": 1000 * statistics.median(flushes), "flushes": len(flushed)}


def _driver(filled: Filled) -> Callable[[], float]:
    """A driver's look at the run, display included; returns its seconds."""
    limits = Limits(max_hours=1e6, max_gpu_hours=1e6)
    driver = Driver(filled.run, filled.experiment, filled.store, [], None, True, limits)
    display = Display(filled.run, filled.experiment, filled.store, None, Console(file=io.StringIO()))
    display.replaying(driver.log)
    started = time.monotonic()

    def poll() -> float:
        began = time.perf_counter()
        driver._look(display, started, [])
        return time.perf_counter() - began

    poll()
    return poll


@contextmanager
def _timed_flushes() -> Iterator[list[float]]:
    flushed: list[float] = []
    fsync = os.fsync

    def timed(file: Any) -> None:
        began = time.perf_counter()
        fsync(file)
        flushed.append(time.perf_counter() - began)

    with patch("os.fsync", timed):
        yield flushed


def trend(counts: Sequence[int], milliseconds: Sequence[float]) -> str:
    """One line: whether the time grows with the number of evaluations, beyond a quarter and half a millisecond."""
    first, last = milliseconds[0], milliseconds[-1]
    grows = last > 1.25 * first + 0.5
    words = f"from {first:.2f} ms at {counts[0]} to {last:.2f} ms at {counts[-1]} stored evaluations"
    return f"a new evaluation: {words}: it {'GROWS' if grows else 'does not grow'}"


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
        measured = [measure(folder / str(count), count, max(3, options.calls)) for count in counts]
    finally:
        if options.keep:
            print(f"run folders: {folder}")
        else:
            shutil.rmtree(folder)
    titles = [*KINDS.items(), ("flushing", "of a new evaluation: flushing to disk (fsync)")]
    rows = [[title, *(each[kind] for each in measured)] for kind, title in titles]
    report.table("milliseconds per call", ["stored evaluations", *map(str, counts)], rows)
    line = trend(counts, [each["new"] for each in measured])
    print(line)
    if options.json:
        new = {str(count): each["new"] for count, each in zip(counts, measured, strict=True)}
        detail = {str(count): each for count, each in zip(counts, measured, strict=True)}
        report.write(options.json, {"ms_per_evaluation": new, "ms": detail, "trend": line, "calls": options.calls})


if __name__ == "__main__":
    main()

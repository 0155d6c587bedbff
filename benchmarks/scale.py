"""`python -m benchmarks.scale`: what an evaluation costs as a run grows, beside Optuna's storages with the same trials.

The toy with 256 simulated workers: so many evaluations are always under way, asked for and claimed; one of them, drawn
at random, ends (its loss is reported, its result recorded and told), and the next begins. Ours is the loop of `bbo run`
and all that its calls of the blackbox do; only the start of their processes is left out: each is a thread that waits
where it would train. Optuna's side is `study.ask`, `trial.report`, `study.tell` on one study that all workers share,
which spares them the reading of each other's trials. The sampler is Optuna's RandomSampler on all sides. Each side has
a process of its own, and they take turns of some hundred evaluations, so that what else the machine does disturbs them
alike.
"""

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from bbo import loop
from bbo.experiment import FULL, Experiment, read_experiment
from bbo.guard import Limits, Watch
from bbo.optimizers.samplers import Random
from bbo.optimizers.study import distributions, silence
from bbo.run import ENVIRONMENT as RUN
from bbo.run import Run
from bbo.space import Point
from bbo.store import Store
from benchmarks import report
from benchmarks.overhead import YAML, flushing
from blackbox import __main__ as blackbox
from blackbox import toy

SIDES = {"ours": "ours", "journal": "Optuna's JournalStorage (file)", "rdb": "Optuna's RDBStorage (SQLite)"}

STRETCHES = 40
LAST = 2
"""Stretches that a figure is the mean of."""

FIGURES = {
    "milliseconds per evaluation": "wall",
    "    of it: flushing to disk (os.fsync)": "flushing",
    "    processor time, whatever else the machine does": "cpu",
    "flushes per evaluation": "flushes",
    "MiB at most": "peak_mib",
}


@dataclass(frozen=True)
class Stretch:
    """What some evaluations in a row cost, each, in milliseconds, and the memory of the process after them."""

    wall: float
    cpu: float
    """Processor time, whatever else the machine does."""
    flushing: float
    """Of `wall`, calls of os.fsync; SQLite's own are not seen."""
    flushes: float
    """How many."""
    peak_mib: float


@dataclass(frozen=True)
class Task:
    """What one side is to do."""

    folder: Path
    evaluations: int
    """That are measured, with all workers busy."""
    workers: int
    stretch: int
    """Evaluations in a turn."""

    @property
    def budget(self) -> int:
        return self.evaluations + self.workers


class Turns:
    """A side's end of the pipe: it measures each stretch, and waits for its next turn.

    The first evaluations are measured with the start of all workers, and those that are left at the end not at all.
    """

    def __init__(self, pipe: Connection, task: Task, flushed: list[float]) -> None:
        self._pipe, self._task, self._flushed = pipe, task, flushed
        self._finished = 0
        self._wait()

    def finished(self) -> None:
        """An evaluation has ended."""
        self._finished += 1
        if self._finished % self._task.stretch == 0 and self._finished <= self._task.evaluations:
            wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
            count, peak = self._task.stretch, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            wall, cpu, flushing = (1000 * seconds / count for seconds in (wall, cpu, sum(self._flushed)))
            self._pipe.send(Stretch(wall, cpu, flushing, len(self._flushed) / count, peak))
            if self._finished < self._task.evaluations:
                self._wait()

    def _wait(self) -> None:
        self._pipe.recv()
        self._flushed.clear()
        self._began = time.perf_counter(), time.process_time()


class Simulated(threading.Thread):
    """A call of the blackbox, from reading the experiment to the line of its answer, in this process.

    Of all threads one is at work at a time: a call gives way where it would train, and when it has ended.
    """

    def __init__(self, experiment: Path, points: Path) -> None:
        super().__init__(daemon=True)
        self._files = experiment, points
        self._go, self._gave_way = SimpleQueue[None](), SimpleQueue[None]()
        self.trained = False
        self.answered = False
        self.status: int | None = None
        self.start()
        self._gave_way.get()

    def run(self) -> None:
        try:
            blackbox._run(os.environ[RUN], *self._files, FULL)
            self.answered = True
        finally:
            self._gave_way.put(None)

    def train(self) -> None:
        """What stands in for the time of training, in the call's own thread."""
        if not self.trained:
            self.trained = True
            self._gave_way.put(None)
            self._go.get()

    def finish(self) -> None:
        self._go.put(None)
        self.join()
        self.status = 0


class Workers:
    """In place of bbo.evaluate.Evaluator: simulated calls instead of processes."""

    def __init__(self, folder: Path, experiment: Path, turns: Turns) -> None:
        self._folder, self._experiment, self._turns = folder, experiment, turns
        self._busy: list[Simulated] = []
        self._random = random.Random(0)
        self._started = 0

    def __enter__(self) -> "Workers":
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, points: Sequence[Point], options: Sequence[str], environment: dict[str, str]) -> Any:
        os.environ.update(environment)
        self._started += 1
        file = self._folder / f"{self._started}.points"
        file.write_text("".join(f"{' '.join(map(repr, point))}\n" for point in points))
        call = Simulated(self._experiment, file)
        self._busy.append(call)
        return SimpleNamespace(
            process=SimpleNamespace(poll=lambda: call.status),
            fault=lambda: None if call.answered else "failed",
            close=file.unlink,
        )

    def finish_one(self) -> None:
        """In place of the loop's pause: one of the calls trains to its end."""
        call = self._busy.pop(self._random.randrange(len(self._busy)))
        call.finish()
        self._turns.finished()


def ours(task: Task, turns: Turns) -> None:
    """`bbo run --optimizer random --parallel WORKERS`."""
    file = experiment_file(task.folder)
    run, experiment = Run(task.folder / "run"), read_experiment(file)
    run.folder.mkdir()
    plan = loop.Plan((), task.budget, places=task.workers)
    sampler = Random(experiment.space, (), task.budget, seed=0)
    driver = loop.Loop(run, experiment, Store(run.evals), sampler, plan, Limits())
    workers = Workers(run.temporary, file, turns)

    def evaluator(command: object, folder: object, log: object, environment: dict[str, str]) -> Workers:
        os.environ.update(environment)
        return workers

    train = SimpleNamespace(time=time.time, sleep=lambda _: threading.current_thread().train())  # type: ignore[attr-defined]
    pause = SimpleNamespace(sleep=lambda _: workers.finish_one())
    with (
        patch.object(loop, "Evaluator", evaluator),
        patch.object(loop, "time", pause),
        patch.object(toy, "time", train),
    ):
        driver.drive(Watch())
    assert len(driver.log.answers) == task.budget


def journal(task: Task, turns: Turns) -> None:
    trials(JournalStorage(JournalFileBackend(str(task.folder / "journal.log"))), task, turns)


def rdb(task: Task, turns: Turns) -> None:
    trials(f"sqlite:///{task.folder}/study.sqlite", task, turns)


def trials(storage: Any, task: Task, turns: Turns) -> None:
    """The same evaluations as trials of a study, in the same order."""
    experiment = read_experiment(experiment_file(task.folder))
    space, draw = experiment.space, random.Random(0)
    with silence():
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
        busy = [study.ask(distributions(space)) for _ in range(task.workers)]
        for _ in range(task.evaluations):
            trial = busy.pop(draw.randrange(len(busy)))
            loss = loss_at(experiment, tuple(float(trial.params[name]) for name in space.free))
            trial.report(loss, 1)
            study.tell(trial, loss)
            busy.append(study.ask(distributions(space)))
            turns.finished()
    assert len(study.get_trials(deepcopy=False)) == task.budget


def loss_at(experiment: Experiment, point: Point) -> float:
    return toy.loss(toy.training_for(experiment, experiment.space.decode(point)), 1, toy.State())


def experiment_file(folder: Path) -> Path:
    """The toy with one epoch, so that a worker reports once, and without the corner where it diverges."""
    content = yaml.safe_load(YAML.read_text())
    content["training"]["num_train_epochs"] = 1
    content["space"]["learning_rate"] = {"log10": [-5, -3]}
    file = folder / YAML.name
    file.write_text(yaml.safe_dump(content, sort_keys=False))  # the order of the space is that of coordinates
    return file


SIDE: dict[str, Callable[[Task, Turns], None]] = {"ours": ours, "journal": journal, "rdb": rdb}


def work(side: str, task: Task, pipe: Connection) -> None:
    """A side's process."""
    task.folder.mkdir()
    with flushing() as flushed:
        SIDE[side](task, Turns(pipe, task, flushed))


def measure(folder: Path, task: Task, sides: Sequence[str] = tuple(SIDES)) -> dict[str, list[Stretch]]:
    """What each stretch of evaluations cost, by side; the sides take turns."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[Stretch]] = {side: [] for side in sides}
    with ExitStack() as stack:
        pipes: dict[str, Connection] = {}
        for side in sides:
            pipes[side], theirs = context.Pipe()
            process = context.Process(target=work, args=(side, replace(task, folder=folder / side), theirs))
            process.start()
            theirs.close()  # so that a side that dies ends the wait for it
            stack.callback(process.join)
            stack.callback(pipes[side].close)
        for _ in range(task.evaluations // task.stretch):
            for side, pipe in pipes.items():
                pipe.send(None)
                found[side].append(pipe.recv())
    return found


def main() -> None:
    """Print the table, and write it as JSON if wished."""
    parser = argparse.ArgumentParser("python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--evaluations", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=256, metavar="W", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the stores lie (default: a temporary folder)")
    parser.add_argument(
        "--without", action="append", default=[], choices=[*SIDES][1:], help="the RDB takes the longest"
    )
    options = parser.parse_args()
    sides = [side for side in SIDES if side not in options.without]
    stretch = max(1, options.evaluations // STRETCHES)
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=options.folder))
    try:
        found = measure(folder, Task(folder, options.evaluations, options.workers, stretch), sides)
    finally:
        shutil.rmtree(folder)
    show(found, stretch)
    if options.json:
        last = {f"{side}_ms": mean(stretches[-LAST:]).wall for side, stretches in found.items()}
        counts = {"evaluations": options.evaluations, "workers": options.workers}
        by_side = {side: [asdict(each) for each in stretches] for side, stretches in found.items()}
        content = {**last, **counts, "peak_mib": found["ours"][-1].peak_mib, "stretch": stretch, "stretches": by_side}
        report.write(options.json, content)


def mean(stretches: Sequence[Stretch]) -> Stretch:
    """Of each figure."""
    return Stretch(*(statistics.fmean(values) for values in zip(*map(astuple, stretches), strict=True)))


def show(found: Mapping[str, Sequence[Stretch]], stretch: int) -> None:
    """A table for each figure: the sides, as the run grows."""
    count = len(found["ours"])
    ends = [end for end in (count // 10, count // 4, count // 2, count) if end > LAST]
    columns = ["evaluations", *(str(end * stretch) for end in ends)]
    for title, figure in FIGURES.items():
        rows = [
            [SIDES[side], *(getattr(mean(stretches[end - LAST : end]), figure) for end in ends)]
            for side, stretches in found.items()
        ]
        report.table(title, columns, rows)


if __name__ == "__main__":
    main()

"""`bbo compare`: the runs of several methods with several seeds, then the report on them."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bbo.errors import InputError
from bbo.optimizers import registry
from bbo.race import Race, Task, Watch, read_pair, run_all
from bbo.reports import compare as reports
from bbo.reports import text
from bbo.reports.figure import draw
from bbo.run import Run, find_run
from bbo.store import Store, write_json


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    optimizers: str
    seeds: int
    budget: int | None = None
    store: Path | None = None
    jobs: int = 1
    out: str | None = None
    levels: str | None = None
    settings: Sequence[str] = ()
    """METHOD.NAME=VALUE each."""


def compare(file: Path, options: Options, console: Console) -> int:
    """Exit statuses: 0 done, 3 with runs that failed. Raises InputError before anything is changed."""
    race, levels = read_race(file, options), _levels(options.levels)
    run = Run(race.folder)
    with run.driven():
        run.settle(race.about(), rule="only resources, display, methods and seeds may change; choose another --out")
        with _progress(race, console) as progress:
            failed = run_all(race, options.jobs, progress)
        report(race, levels, failed, console)
    return 3 if failed else 0


def read_race(file: Path, options: Options) -> Race:
    """The checked plan. Raises InputError."""
    methods = [name.strip() for name in options.optimizers.split(",")]
    twice = sorted({name for name in methods if methods.count(name) > 1})
    if twice:
        raise InputError(f"--optimizers: each can be named once, got {', '.join(twice)} twice")
    for name in methods:
        if name not in registry.OPTIMIZERS:
            registry.find(name)
    settings = _settings(options.settings, methods)
    for name, number in (("--seeds", options.seeds), ("--jobs", options.jobs), ("--budget", options.budget)):
        if number is not None and number < 1:
            raise InputError(f"{name}: must be at least 1, got {number}")
    problem, experiment = read_pair(file)
    budget = options.budget or problem.max_bb_eval
    if budget is None:
        raise InputError(f"--budget: must be given, since {file} has no MAX_BB_EVAL")
    folder = find_run(options.out or f"compare-{file.stem}").folder
    store = Store(options.store or folder / "evals")
    return Race(problem, experiment, methods, options.seeds, budget, folder, store, settings)


def _settings(statements: Sequence[str], methods: Sequence[str]) -> dict[str, list[str]]:
    """What `--set METHOD.NAME=VALUE` says to each method; the name and value are for its runs to judge."""
    found: dict[str, list[str]] = {}
    for statement in statements:
        method = next((name for name in methods if statement.startswith(f"{name}.")), None)
        if method is None or "=" not in statement:
            raise InputError(f"--set: must be METHOD.NAME=VALUE, a method of {', '.join(methods)}, got {statement}")
        found.setdefault(method, []).append(statement.removeprefix(f"{method}."))
    return found


def _levels(words: str | None) -> list[float]:
    try:
        levels = [float(word) for word in words.split(",")] if words else []
    except ValueError:
        levels = [math.nan]
    if not all(map(math.isfinite, levels)):
        raise InputError(f"--levels: must be numbers with commas between them, got {words}")
    return levels


def report(race: Race, levels: Sequence[float], failed: dict[Task, str], console: Console) -> None:
    """Compute, print and write the report on the complete runs."""
    complete = [task for task in race.tasks if race.complete(task)]
    traces = {method: [race.trace(task) for task in complete if task.method == method] for method in race.methods}
    output = race.experiment.outputs[race.experiment.objective]
    subject = reports.Subject(
        name=race.problem.path.stem,
        metric=output.metric,
        sign=output.sign,
        budget=race.budget,
        seeds=race.seeds,
        base=_base(race, output.metric),
        x0=race.problem.x0[0] if race.problem.x0 else None,
    )
    comparison = reports.compare(subject, traces, levels)
    remarks = _remarks(race, failed, complete)
    written = text.text(comparison, remarks)
    text.show(written, console)
    (race.folder / "report.md").write_text(text.markdown(written))
    write_json(race.folder / "report.json", reports.as_json(comparison) | {"remarks": remarks})
    if comparison.methods:
        draw(comparison, [race.folder / "figure.svg", race.folder / "figure.png"])
    console.print(f"report, figures and numbers: {race.folder}/", highlight=False, markup=False, soft_wrap=True)


def _remarks(race: Race, failed: Mapping[Task, str], complete: Sequence[Task]) -> list[str]:
    """What a reader has to know of single runs: those that failed, seeds of one reason together, and settings."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for task, reason in failed.items():
        fate = "counted as it stands" if task in complete else "left out"
        alike.setdefault((task.method, fate, reason), []).append(str(task.seed))
    remarks = [f"{method}, seed {', '.join(seeds)}: failed, {fate}: {reason}"
               for (method, fate, reason), seeds in alike.items()]  # fmt: skip
    return remarks + [f"{method}: with {', '.join(given)}." for method, given in race.settings.items()]


def _base(race: Race, metric: str) -> float | None:
    """The untouched base model's score, where a run has it."""
    scores = (task.run.base_score() for task in race.tasks)
    return next((score[metric] for score in scores if score and metric in score), None)


@dataclass
class Progress(Watch):
    """A line for each run that ended, a live one for those under way."""

    race: Race
    console: Console
    live: Live | None
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    """Runs that ended since we started."""
    before: int = 0
    """Runs that were finished when we started."""

    def ended(self, task: Task, reason: str | None) -> None:
        self.done += 1
        words = f"[{self.before + self.done}/{len(self.race.tasks)}] {task.method}, seed {task.seed}: "
        words += f"failed: {reason}" if reason else f"{_count(task)} evaluations"
        self.console.print(f"{words}  {self._time()}", highlight=False, markup=False, soft_wrap=True)

    def going(self, tasks: Sequence[Task]) -> None:
        if self.live:
            now = ", ".join(f"{task.method} seed {task.seed}: {_count(task)} evaluations" for task in tasks)
            words = f"{self.before + self.done} of {len(self.race.tasks)} runs, {self._time()}  | {now}"
            self.live.update(Text(words, style="cyan", overflow="ellipsis", no_wrap=True), refresh=True)

    def _time(self) -> str:
        elapsed = time.monotonic() - self.started
        left = len(self.race.tasks) - self.before - self.done
        to_go = f", about {_clock(elapsed / self.done * left)} to go" if self.done and left else ""
        return f"{_clock(elapsed)}{to_go}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _count(task: Task) -> int:
    log = task.run.log()
    return sum(ask.number in log.answers and log.answers[ask.number].source != "declined" for ask in log.driven)


@contextmanager
def _progress(race: Race, console: Console) -> Iterator[Progress]:
    """While the runs are done."""
    live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
    progress = Progress(race, console, live, before=sum(race.finished(task) for task in race.tasks))
    if progress.before:
        console.print(f"{progress.before} of {len(race.tasks)} runs are finished already", style="yellow")
    if live:
        live.start()
    try:
        yield progress
    finally:
        if live:
            live.stop()

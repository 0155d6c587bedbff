"""The runs of a comparison: every method with every seed is one, in a child process, all on one store.

    runs/compare-NAME/   params/SEED/NAME.txt and .yaml   evals/ (the store)   report.md .json figure.svg .png
        METHOD/          SEED/ (a run folder)   SEED.out (what it said)   SEED.json (how it ended)

The run logs and the store are the truth: the same command reads what is finished and goes on with the rest.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from bbo.command import experiment_word
from bbo.errors import InputError
from bbo.experiment import FULL, Experiment, read_experiment
from bbo.guard import failed_in_a_row
from bbo.lifeline import ENVIRONMENT as LIFELINE
from bbo.nomad import about
from bbo.pair import disagreements, fidelity_of
from bbo.problem import Problem, experiment_file, read_problem
from bbo.processes import end
from bbo.reports.trace import Trace, read_trace
from bbo.run import Run
from bbo.store import Store, write_json

BBO = [sys.executable, "-c", "from bbo import lifeline; lifeline.watch(); from bbo.cli import main; main()"]
"""`bbo`, but ending with us."""

POLL = 0.2


@dataclass(frozen=True)
class Task:
    """One run of one method."""

    method: str
    seed: int
    folder: Path
    """Its run folder."""

    @property
    def run(self) -> Run:
        return Run(self.folder)

    @property
    def output(self) -> Path:
        return self.folder.with_suffix(".out")

    @property
    def ended(self) -> Path:
        return self.folder.with_suffix(".json")


@dataclass(frozen=True)
class Race:
    """The runs of a comparison."""

    problem: Problem
    experiment: Experiment
    methods: Sequence[str]
    seeds: int
    budget: int
    folder: Path
    store: Store
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Method -> what `--set` says to it, NAME=VALUE each."""

    @property
    def tasks(self) -> list[Task]:
        """All runs, a seed's methods after one another, so that what is there early can be compared."""
        seeds = range(1, self.seeds + 1)
        return [Task(method, seed, self.folder / method / str(seed)) for seed in seeds for method in self.methods]

    def about(self) -> dict[str, object]:
        """What a comparison's folder belongs to; methods and seeds may be added, runs know their settings."""
        return {**about(self.problem, self.experiment), "budget": self.budget}

    def parameters(self, seed: int) -> Path:
        """The params pair of a seed."""
        return self.folder / "params" / str(seed) / self.problem.path.name

    def command(self, task: Task) -> list[str]:
        run, store = task.folder.absolute(), self.store.root.absolute()
        words = ["run", self.parameters(task.seed), "--optimizer", task.method, "--seed", task.seed]
        words += ["--budget", self.budget, "--run", run, "--store", store]
        for statement in self.settings_of(task.method):
            words += ["--set", statement]
        return [*BBO, *map(str, words)]

    def settings_of(self, method: str) -> list[str]:
        return list(self.settings.get(method, ()))

    def finished(self, task: Task) -> bool:
        """Whether the run came to its own end, with its budget or before it, under these settings."""
        with suppress(FileNotFoundError):
            return bool(json.loads(task.ended.read_text()) == {"status": 0, "settings": self.settings_of(task.method)})
        return False

    def complete(self, task: Task) -> bool:
        """Whether it says what the method can do: finished, budget spent, or stopped for its failing points."""
        if self.finished(task):
            return True
        evaluations = self.trace(task).evaluations
        failing = len(failed_in_a_row(task.run.log())) >= self.experiment.resources.max_failed
        return failing or (bool(evaluations) and evaluations[-1] >= self.budget)

    def trace(self, task: Task) -> Trace:
        fidelity = self.experiment.fidelity(fidelity_of(self.problem.bb_exe) or FULL)
        return read_trace(self.experiment, task.run.log(), self.store, task.seed, fidelity.get("epochs_fraction", 1.0))


def read_pair(file: Path) -> tuple[Problem, Experiment]:
    """A params pair that agrees, with one objective and no seed among its variables. Raises InputError."""
    problem = read_problem(file)
    yaml = experiment_file(problem)
    if yaml is None:
        raise InputError(f"{problem.where('BB_EXE')}: BB_EXE runs no experiment of ours, there is nothing to compare")
    experiment = read_experiment(yaml)
    if wrong := disagreements(problem, experiment):
        raise InputError(*wrong)
    if "seed" in experiment.space.variables:
        raise experiment.error("space.seed", "the training's seed is what a comparison sets, it cannot be a variable")
    if (count := len(experiment.objectives)) > 1:
        raise experiment.error("objectives", f"a comparison needs a single objective, got {count}")
    return problem, experiment


def derive(problem: Problem, experiment: Experiment, seed: int, file: Path) -> None:
    """Write the pair with the training's seed replaced: `file`, and its YAML beside it."""
    content = {**experiment.document, "training": {**experiment.training, "seed": seed}}
    yaml = file.with_suffix(".yaml")
    lines = [line for line in problem.lines if not line.startswith(("BB_EXE ", "SURROGATE_EXE "))]
    for keyword, words in (("BB_EXE", problem.bb_exe), ("SURROGATE_EXE", problem.surrogate_exe)):
        if words:
            its = (yaml.name if word == experiment_word(words) else word for word in words)
            lines.append(f'{keyword} "{" ".join(its)}"')
    file.parent.mkdir(parents=True, exist_ok=True)
    yaml.write_text(replace(experiment, source=replace(experiment.source, content=content)).dump())
    file.write_text(f"# Copy of {problem.path} for the training's seed {seed}\n" + "\n".join(lines) + "\n")


class Watch:
    """What a race tells while its runs are under way."""

    def ended(self, task: Task, reason: str | None) -> None:
        """A run is over; the reason where it failed."""

    def going(self, tasks: Sequence[Task]) -> None:
        """These are under way."""


def run_all(race: Race, jobs: int, watch: Watch) -> dict[Task, str]:
    """Do all runs that are not finished, `jobs` side by side. Returns the reasons of those that failed."""
    waiting = [task for task in race.tasks if not race.finished(task)]
    for seed in {task.seed for task in waiting}:
        derive(race.problem, race.experiment, seed, race.parameters(seed))
    failed: dict[Task, str] = {}
    going: dict[Task, subprocess.Popen[bytes]] = {}
    try:
        while waiting or going:
            while waiting and len(going) < jobs:
                task = waiting.pop(0)
                going[task] = _start(race, task)
            watch.going(list(going))
            for task, child in list(going.items()):
                if (status := child.poll()) is None:
                    continue
                del going[task]
                write_json(task.ended, {"status": status, "settings": race.settings_of(task.method)})
                if status != 0:
                    failed[task] = _reason(task, status)
                watch.ended(task, failed.get(task))
            time.sleep(POLL if going else 0)
    finally:
        end(list(going.values()))
    return failed


def _start(race: Race, task: Task) -> subprocess.Popen[bytes]:
    task.folder.parent.mkdir(parents=True, exist_ok=True)
    _share_preflight(race, task)
    with task.output.open("wb") as output:
        return subprocess.Popen(
            race.command(task),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, LIFELINE: "1"},
            start_new_session=True,
        )


def _share_preflight(race: Race, task: Task) -> None:
    """What another method's run with this seed has checked and scored of model and data holds for this one, too."""
    if task.run.preflight_file.exists():
        return
    for other in race.tasks:
        if other.seed == task.seed and other.run.preflight_file.is_file():
            task.folder.mkdir(exist_ok=True)
            shutil.copy(other.run.preflight_file, task.run.preflight_file)
            return


def _reason(task: Task, status: int) -> str:
    """The sentence that a run ended with."""
    lines = [line for line in task.output.read_text(errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("continue with:")]
    stopped = [line.removeprefix("stopped: ") for line in said if line.startswith("stopped: ")]
    if stopped or not said:
        return stopped[-1] if stopped else f"it said nothing and ended with status {status}"
    return "no good evaluation" if status == 3 else said[-1]

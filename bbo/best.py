"""The best points of a run, found again in its folder: for everything that follows a search."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbo.conduct import about_experiment
from bbo.errors import InputError, MachineError
from bbo.experiment import Experiment, read_experiment
from bbo.front import is_good
from bbo.run import Run, find_run
from bbo.runlog import Answer, Ask, RunLog
from bbo.session import read_session
from bbo.store import Evaluation, Store

CONFIRMED = "confirmed.json"


@dataclass(frozen=True)
class Good:
    """A different point of a run whose constraints hold."""

    ask: Ask
    hyperparameters: Mapping[str, Any]
    objective: float
    """As told: smaller is better."""
    evaluation: Evaluation

    def require_whole(self) -> None:
        """Raises InputError where it is a part of a longer training, which no single point describes."""
        result = self.evaluation.result()
        if result is not None and result.parent is not None:
            raise InputError(
                f"#{self.ask.number}: is an interval that goes on from other trainings: its point alone does not say "
                "how to repeat it"
            )


@dataclass(frozen=True)
class Searched:
    """A run, finished or not."""

    run: Run
    experiment: Experiment
    store: Store
    good: Sequence[Good]
    """The best first, at least one."""

    @property
    def confirmed_file(self) -> Path:
        return self.run.folder / CONFIRMED

    @property
    def remark(self) -> str | None:
        """What has to be said where there are several objectives."""
        count, first = len(self.experiment.objectives), self.experiment.outputs[self.experiment.objective].metric
        return None if count == 1 else f"{count} objectives: the best is by the first, {first}"

    def confirmed(self) -> Mapping[str, Any] | None:
        """What `bbo confirm` found, where the search's best is still among the points that it trained again."""
        try:
            content: dict[str, Any] = json.loads(self.confirmed_file.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            raise MachineError(f"{self.confirmed_file}: damaged; `bbo confirm` writes it anew") from None
        keys = {point["key"] for point in content["points"]}
        return content if self.good[0].evaluation.key in keys else None

    def best(self) -> Good:
        """By confirmation where there is one, else by the search."""
        confirmed = self.confirmed()
        key = self.good[0].evaluation.key if confirmed is None else confirmed["points"][0]["key"]
        return next((good for good in self.good if good.evaluation.key == key), self.good[0])


def read_searched(name: str) -> Searched:
    """The run of a name or path. Raises InputError where there is none, or nothing good in it."""
    run = find_run(name)
    if not run.log_file.is_file():
        raise InputError(f"{run.folder}: no run there")
    store = Store(Path(read_session(run).store)) if run.session_file.is_file() else Store(run.evals)
    log = run.log()
    asks = log.driven or [ask for ask in log.asks if not ask.surrogate]  # a native NOMAD's
    experiment = _experiment(run, store, [ask for ask in asks if ask.number in log.answers])
    good = _good(experiment, store, log, asks)
    if not good:
        raise InputError(f"{run.folder}: no good evaluation in it")
    return Searched(run, experiment, store, good)


def _good(experiment: Experiment, store: Store, log: RunLog, asks: Sequence[Ask]) -> list[Good]:
    found: dict[str, Good] = {}
    for ask in asks:
        answer: Answer | None = log.answers.get(ask.number)
        if answer is not None and answer.values is not None and is_good(experiment, answer):
            objective = answer.values[experiment.objective]
            if math.isfinite(objective):
                hyperparameters = _decode(experiment, ask)
                found.setdefault(ask.key, Good(ask, hyperparameters, objective, store.evaluation(ask.key)))
    return sorted(found.values(), key=lambda good: good.objective)


def _decode(experiment: Experiment, ask: Ask) -> Mapping[str, Any]:
    try:
        return experiment.space.decode(ask.point)
    except ValueError as error:  # a native NOMAD's run may have seen several experiments
        raise InputError(f"#{ask.number}: no point of {experiment.path}: {error}") from None


def _experiment(run: Run, store: Store, asks: Sequence[Ask]) -> Experiment:
    """The run's experiment, from the copy beside an evaluation. In a shared store it may be another run's."""
    begun = run.about().get("experiment")
    wanted = None if begun is None else {name: content for name, content in begun.items() if name != "fidelity"}
    for ask in asks:
        file = store.evaluation(ask.key).experiment_file
        if file.is_file():
            experiment = read_experiment(file)
            if wanted in (None, json.loads(json.dumps(about_experiment(experiment, [])))):
                return experiment
    raise InputError(f"{run.folder}: none of its evaluations in {store.root} has a copy of its experiment")

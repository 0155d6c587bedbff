"""The best points of a run, found again in its folder: for everything that follows a search."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbo.errors import InputError, MachineError
from bbo.experiment import Experiment
from bbo.front import is_good
from bbo.record import Record, decode, open_record
from bbo.run import Run
from bbo.runlog import Ask
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
    return searched(open_record(name))


def searched(record: Record) -> Searched:
    """The good points of a run. Raises InputError where there are none."""
    good = good_points(record)
    if not good:
        raise InputError(f"{record.run.folder}: no good evaluation in it")
    return Searched(record.run, record.experiment, record.store, good)


def good_points(record: Record) -> list[Good]:
    """Of a run, the best first."""
    experiment, found = record.experiment, dict[str, Good]()
    for ask in record.asks:
        answer = record.log.answers.get(ask.number)
        if answer is not None and answer.values is not None and is_good(experiment, answer):
            objective = answer.values[experiment.objective]
            if math.isfinite(objective):
                hyperparameters = decode(experiment, ask)
                found.setdefault(ask.key, Good(ask, hyperparameters, objective, record.store.evaluation(ask.key)))
    return sorted(found.values(), key=lambda good: good.objective)

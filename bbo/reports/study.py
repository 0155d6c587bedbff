"""A run as an Optuna study, for Optuna's figures and its dashboard: a trial per evaluation, with true values.

Nothing is optimized with it: an optimizer's own study (bbo/optimizers/study.py) has coordinates for parameters. Here a
choice of numbers is a range of numbers, so that its axis is one; what has `times` shows the factor, whose range does
not depend on another parameter, and is named after both.
"""

import math
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from bbo.experiment import Experiment
from bbo.optimizers.study import silence
from bbo.record import Entry, Record
from bbo.space import Value, Variable

STATES = {
    "ok": TrialState.COMPLETE,
    "infeasible": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
    "stopped": TrialState.PRUNED,
    "pending": TrialState.RUNNING,
}

WIDE = 8
"""A choice of positive numbers whose greatest is so many times the least is shown on a logarithmic axis."""


def study_of(record: Record) -> Study:
    """All evaluations but declined ones; failed, stopped and running ones in their states."""
    with silence():
        study = create(optuna.storages.InMemoryStorage(), record)
        study.add_trials([trial_of(record.experiment, each) for each in record.entries() if each.status in STATES])
    return study


def create(storage: BaseStorage, record: Record) -> Study:
    """An empty one, named as the run, with the signs and names of the metrics."""
    outputs = [record.experiment.outputs[index] for index in record.experiment.objectives]
    directions = [StudyDirection.MAXIMIZE if o.sign < 0 else StudyDirection.MINIMIZE for o in outputs]
    study = optuna.create_study(storage=storage, study_name=record.run.name, directions=directions)
    study.set_metric_names([output.metric for output in outputs])
    return study


def trial_of(experiment: Experiment, entry: Entry) -> FrozenTrial:
    """An evaluation as a trial; its user attributes say number, key and what came of it."""
    answer, state = entry.answer, STATES[entry.status]
    trial = create_trial(
        state=state,
        values=values_of(experiment, entry),
        params=params_of(experiment, entry),
        distributions=distributions_of(experiment),
        intermediate_values=losses_of(entry),
        user_attrs=attributes_of(entry),
        constraints=constraints_of(experiment, entry),
    )
    trial.datetime_start = datetime.fromtimestamp(entry.ask.time)
    trial.datetime_complete = None if answer is None else datetime.fromtimestamp(answer.time)
    return trial


def values_of(experiment: Experiment, entry: Entry) -> list[float] | None:
    """Its objectives with their own signs, where it is whole."""
    told = entry.values
    return None if told is None else [experiment.outputs[i].sign * told[i] for i in experiment.objectives]


def constraints_of(experiment: Experiment, entry: Entry) -> dict[str, float] | None:
    """Held where <= 0; None where there are none, or it is not known."""
    pairs = zip(experiment.outputs, entry.values or (), strict=False)
    return {output.condition: value for output, value in pairs if output.kind == "PB"} or None


def losses_of(entry: Entry) -> dict[int, float]:
    """Validation losses by optimizer step, as far as this run went."""
    until = math.inf if entry.answer is None or entry.answer.epoch is None else entry.answer.epoch
    epochs = [each for each in entry.evaluation.epochs() if each["epoch"] <= until]
    return {each["step"]: each["eval_loss"] for each in epochs if "eval_loss" in each}


def attributes_of(entry: Entry) -> dict[str, Any]:
    known: dict[str, Any] = {"evaluation": entry.ask.number, "key": entry.ask.key}
    if entry.answer is not None:
        known |= {"source": entry.answer.source} | ({"reason": entry.reason} if entry.reason else {})
    if entry.result is not None:
        known |= {"seconds": entry.result.seconds, "slot": entry.result.slot, **entry.result.metrics}
    return known


def names_of(experiment: Experiment) -> dict[str, str]:
    """Parameters of the study by the names of the space's free variables."""
    variables = experiment.space.variables
    times = {name: variables[name].times for name in experiment.space.free}
    return {name: name if factor is None else f"{name} / {factor}" for name, factor in times.items()}


def params_of(experiment: Experiment, entry: Entry) -> dict[str, Any]:
    variables, names = experiment.space.variables, names_of(experiment)
    pairs = zip(experiment.space.free, entry.ask.point, strict=True)
    return {names[name]: _param(variables[name].decode(x)) for name, x in pairs}


def distributions_of(experiment: Experiment) -> dict[str, BaseDistribution]:
    names = names_of(experiment)
    return {names[name]: _distribution(experiment.space.variables[name]) for name in names}


def numbers_of(variable: Variable) -> list[float] | None:
    """Of a choice of numbers, smallest first; None for any other variable."""
    values = variable.choice or ("",)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    return sorted(float(value) for value in values)  # type: ignore[arg-type]


def _distribution(variable: Variable) -> BaseDistribution:
    if variable.kind == "log10":
        return FloatDistribution(10.0**variable.lower, 10.0**variable.upper, log=True)
    if variable.kind == "float":
        return FloatDistribution(*variable.bounds)
    if variable.kind == "int":
        return IntDistribution(int(variable.lower), int(variable.upper))
    numbers = numbers_of(variable)
    if numbers is None:
        return CategoricalDistribution([_param(value) for value in variable.choice or ()])
    log = numbers[0] > 0 and numbers[-1] >= WIDE * numbers[0]
    if all(isinstance(value, int) for value in variable.choice or ()):
        return IntDistribution(int(numbers[0]), int(numbers[-1]), log=log)
    return FloatDistribution(numbers[0], numbers[-1], log=log)


def _param(value: Value) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value

"""Which of Katib's algorithms an optimizer of ours is, and what may be said to it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bbo.errors import InputError
from bbo.katib.settings import KatibSettings
from bbo.space import Space


@dataclass(frozen=True)
class Algorithm:
    """One of Katib's, as its suggestion service takes it."""

    name: str
    settings: Mapping[str, Callable[[str], object]]
    """Name -> what reads its value, or raises ValueError."""
    log_uniform: bool = True
    """Whether it draws a log-uniform parameter as one. Others would draw it uniformly, without a word."""


def _one_of(*words: str) -> Callable[[str], object]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return read


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("must be a whole number of at least 0")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("must be a number above 0")
    return number


SEED = "random_state"

ALGORITHMS = {
    "random": Algorithm("random", {SEED: _whole}),
    "tpe": Algorithm("multivariate-tpe", {SEED: _whole, "n_startup_trials": _whole, "n_ei_candidates": _whole}),
    "gp": Algorithm(
        "bayesianoptimization",
        {
            SEED: _whole,
            "n_initial_points": _whole,
            "base_estimator": _one_of("GP", "RF", "ET", "GBRT"),
            "acq_func": _one_of("gp_hedge", "LCB", "EI", "PI", "EIps", "PIps"),
            "acq_optimizer": _one_of("auto", "sampling", "lbfgs"),
        },
    ),
    "cmaes": Algorithm(
        "cmaes", {SEED: _whole, "sigma": _positive, "restart_strategy": _one_of("none", "ipop", "bipop")}, False
    ),
    "sobol": Algorithm("sobol", {}, False),
    "grid": Algorithm("grid", {SEED: _whole}),
}
"""Our name -> Katib's. Its own hyperband and pbt want trials that go on from each other's files: they are not ours."""


def algorithm(settings: KatibSettings, space: Space) -> dict[str, object]:
    """`spec.algorithm`. Raises InputError where Katib has none, or not for this space, and for unknown settings."""
    name = settings.algorithm_name
    if name not in ALGORITHMS:
        raise InputError(f"algorithm_name: Katib has no {name}, it has {', '.join(ALGORITHMS)} of our optimizers")
    found = ALGORITHMS[name]
    if wrong := [*_space(name, found, space, settings.max_trial_count), *_settings(name, found, settings)]:
        raise InputError(*wrong)
    given = [{"name": setting, "value": value} for setting, value in settings.algorithm_settings.items()]
    return {"algorithmName": found.name} | ({"algorithmSettings": given} if given else {})


def _space(name: str, found: Algorithm, space: Space, budget: int) -> list[str]:
    """What Katib's algorithm cannot do with these variables."""
    variables = {variable: space.variables[variable] for variable in space.free}
    logarithmic = [variable for variable, each in variables.items() if each.kind == "log10"]
    continuous = [variable for variable, each in variables.items() if not each.whole]
    numeric = [variable for variable, each in variables.items() if each.kind != "choice"]
    about = f"algorithm_name: {name}: Katib's"
    if not found.log_uniform and logarithmic:
        return [f"{about} draws log10 variables uniformly, and there is {', '.join(logarithmic)}"]
    if name == "cmaes" and len(numeric) < 2:
        return [f"{about} needs two numbers among the variables, and there is {', '.join(numeric) or 'none'}"]
    if name == "grid" and continuous:
        return [f"{about} takes choices and whole numbers, and there is {', '.join(continuous)}"]
    size = math.prod(int(each.upper - each.lower) + 1 for each in variables.values()) if name == "grid" else budget
    return [f"max_trial_count: must not be more than the grid's {size} points, got {budget}"] if budget > size else []


def _settings(name: str, found: Algorithm, settings: KatibSettings) -> list[str]:
    wrong = []
    for setting, value in settings.algorithm_settings.items():
        if setting not in found.settings:
            known = ", ".join(found.settings) or "none"
            wrong.append(f"algorithm_settings: Katib's {found.name} ({name}) has no {setting}, it has {known}")
            continue
        try:
            found.settings[setting](value)
        except ValueError as error:
            wrong.append(f"algorithm_settings: {setting}: {error}, got {value!r}")
    return wrong

"""Who races: our optimizers through ask and tell, NOMAD's batch run, and peers from outside as their users call them.

Peers are told of X0 where they can be, since ours are, and of a failed training as of the worst so far. What a peer
counts as an evaluation counts here too, but for the points that scipy's DIRECT, which knows no whole numbers, has tried
already: it hears them again for nothing.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bbo.optimizers import Optimizer, Outcome
from bbo.space import Point, Space, Value, Variable
from benchmarks.batch_run import batch_run
from benchmarks.problem import Recorder
from benchmarks.race import Play

BLOCK = 4
"""Points of a block, in the parallel setting."""


def ask_tell(name: str, recorder: Recorder, block: int = 1) -> None:
    """One of ours, by its name in the registry."""
    from bbo.optimizers.registry import find  # noqa: PLC0415

    problem = recorder.problem
    make: Callable[..., Optimizer] = find(name)[0]
    optimizer = make(space=problem.space, x0=(problem.x0,), budget=recorder.budget, seed=recorder.seed)
    while recorder.left:
        proposals = optimizer.ask(min(block, recorder.left))
        if not proposals:
            return
        first = len(recorder.observed) + 1
        values = [recorder(proposal.point) for proposal in proposals]
        for number, (proposal, value) in enumerate(zip(proposals, values, strict=True), start=first):
            optimizer.tell(Outcome(number, proposal.point, "ok" if math.isfinite(value) else "failed", value))


def optuna_default(sampler: str, recorder: Recorder, block: int = 1) -> None:
    """Optuna with the sampler's defaults; choices are categorical."""
    import optuna  # noqa: PLC0415

    optuna.logging.disable_default_handler()
    warnings.filterwarnings("ignore", module="optuna")
    space = recorder.problem.space
    distributions = {name: _distribution(space.variables[name]) for name in space.free}
    study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=recorder.seed))
    study.enqueue_trial(dict(_named(space, recorder.problem.x0)))
    while recorder.left:
        trials = [study.ask(distributions) for _ in range(min(block, recorder.left))]
        values = [recorder(_point(space, trial.params)) for trial in trials]
        for trial, value in zip(trials, values, strict=True):
            study.tell(trial, _finite(value, recorder))


def _finite(value: float, recorder: Recorder) -> float:
    """A peer's models take no Inf."""
    return value if math.isfinite(value) else max(filter(math.isfinite, recorder.observed), default=0.0)


def _distribution(variable: Variable) -> Any:
    import optuna.distributions as of  # noqa: PLC0415

    if variable.choice is not None:
        return of.CategoricalDistribution(variable.choice)  # type: ignore[arg-type]
    if variable.whole:
        return of.IntDistribution(int(variable.lower), int(variable.upper))
    return of.FloatDistribution(*variable.bounds)  # of an exponent: what `log=True` makes of the number


def _named(space: Space, point: Point) -> Mapping[str, Any]:
    """Choices by value, the others by coordinate."""
    pairs = [(name, space.variables[name], x) for name, x in zip(space.free, point, strict=True)]
    return {name: v.decode(x) if v.choice is not None else int(x) if v.whole else x for name, v, x in pairs}


def _point(space: Space, named: Mapping[str, Value]) -> Point:
    pairs = [(space.variables[name], named[name]) for name in space.free]
    plain = [(v, x.item() if hasattr(x, "item") else x) for v, x in pairs]  # ConfigSpace hands out numpy's
    return tuple(v.encode(x) if v.choice is not None else float(x) for v, x in plain)  # type: ignore[arg-type]


def smac(recorder: Recorder, block: int = 1) -> None:
    """SMAC3 with the defaults of its facade for hyperparameters."""
    from ConfigSpace import Configuration  # noqa: PLC0415
    from smac import HyperparameterOptimizationFacade, Scenario  # noqa: PLC0415
    from smac.runhistory import TrialValue  # noqa: PLC0415

    space = recorder.problem.space
    configurations = _configuration_space(space)
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            configurations,
            deterministic=True,
            n_trials=recorder.budget,
            seed=recorder.seed,
            output_directory=Path(folder),
        )
        x0 = Configuration(configurations, values=dict(_named(space, recorder.problem.x0)))
        design = HyperparameterOptimizationFacade.get_initial_design(scenario, additional_configs=[x0])
        facade = HyperparameterOptimizationFacade(
            scenario, lambda config, seed: 0.0, initial_design=design, overwrite=True, logging_level=False
        )
        while recorder.left:
            trials = [facade.ask() for _ in range(min(block, recorder.left))]
            values = [recorder(_point(space, dict(trial.config))) for trial in trials]
            for trial, value in zip(trials, values, strict=True):
                facade.tell(trial, TrialValue(cost=_finite(value, recorder)))


def _configuration_space(space: Space) -> Any:
    import ConfigSpace as cs  # noqa: PLC0415

    made = cs.ConfigurationSpace(seed=0)
    for name in space.free:
        variable = space.variables[name]
        if variable.choice is not None:
            made.add(cs.Categorical(name, variable.choice))
        elif variable.whole:
            made.add(cs.Integer(name, (int(variable.lower), int(variable.upper))))
        else:
            made.add(cs.Float(name, variable.bounds))
    return made


class _SpentError(Exception):
    """The budget is."""


def direct(recorder: Recorder) -> None:
    """scipy.optimize.direct over the box, whole numbers rounded."""
    from scipy.optimize import direct as scipy_direct  # noqa: PLC0415

    variables = [recorder.problem.space.variables[name] for name in recorder.problem.space.free]
    known: dict[Point, float] = {}

    def value(x: Sequence[float]) -> float:
        rounded = [round(c) if v.whole else float(c) for c, v in zip(x, variables, strict=True)]
        point = tuple(min(max(c, v.lower), v.upper) for c, v in zip(rounded, variables, strict=True))
        if point not in known:
            if not recorder.left:
                raise _SpentError
            known[point] = recorder(point)
        return _finite(known[point], recorder)

    bounds = [(v.lower - 0.5, v.upper + 0.5) if v.whole else v.bounds for v in variables]
    try:
        scipy_direct(value, bounds, maxfun=100_000, maxiter=10_000, vol_tol=0, len_tol=0)
    except _SpentError:
        return


def nomad(settings: Sequence[str], recorder: Recorder, block: int = 1) -> None:
    """NOMAD's batch run under these lines of a parameter file."""
    batch_run(recorder, settings, block)


SETTINGS: tuple[str, ...] = ("INITIAL_FRAME_SIZE %0.2",)
"""NOMAD's, one point after another; Docs/regret.md says how they were found."""

MEGA = ("MEGA_SEARCH_POLL yes",)
SETTINGS_OF_BLOCKS = (*MEGA, "NM_SEARCH no", "SPECULATIVE_SEARCH no")
"""NOMAD's in blocks, which the shipped params have too."""

OURS = ("random", "lhs", "sobol", "grid", "tpe", "gp", "cmaes", "soo", "bamsoo")
"""bohb is tpe here, and pbt has no place: a surrogate has no learning curves."""

IN_BLOCKS = ("random", "tpe", "gp", "cmaes")


def racers() -> dict[str, Play]:
    """By name; `x4` are asked for blocks of four."""
    defaults = {"nomad-defaults": partial(nomad, ()), "nomad-defaults x4": partial(nomad, MEGA, block=BLOCK)}
    found: dict[str, Play] = {"nomad": partial(nomad, SETTINGS), **defaults}
    found["nomad x4"] = partial(nomad, SETTINGS_OF_BLOCKS, block=BLOCK)
    found |= {name: partial(ask_tell, name) for name in OURS}
    found |= {f"{name} x4": partial(ask_tell, name, block=BLOCK) for name in IN_BLOCKS}
    for short, sampler in {"optuna-tpe": "TPESampler", "optuna-gp": "GPSampler"}.items():
        found[short] = partial(optuna_default, sampler)
        found[f"{short} x4"] = partial(optuna_default, sampler, block=BLOCK)
    if find_spec("smac"):
        found |= {"smac": smac, "smac x4": partial(smac, block=BLOCK)}
    return {**found, "direct": direct}

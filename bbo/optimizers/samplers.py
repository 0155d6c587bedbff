"""Optuna's samplers behind ask / tell: random, Sobol, TPE, GP, CMA-ES.

A sampler's parameters are the space's free variables by name. Their values are coordinates, not decoded values, so that
a point is the very one that was drawn: 10**x and back may be a unit in the last place off. No sampler loses by it: the
coordinate of a log10 variable is the exponent, whose bounds any of them maps to an interval of its own just as it would
log(value); a choice of numbers is ordered by value (an integer, whose steps count as equal); only a choice of words,
booleans or lists is categorical.

Nothing here depends on time, threads or process ids. Optuna says nothing on the terminal.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

from bbo.errors import InputError
from bbo.optimizers import Outcome, Proposal
from bbo.space import Point, Space, Variable

_INFEASIBLE = 1e100
"""More than any loss."""


@contextmanager
def _silence() -> Iterator[None]:
    """Optuna logs every study it creates and warns of what we chose on purpose (experimental, deprecated, inf)."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _by_value(variable: Variable) -> list[int] | None:
    """The coordinates of a choice of numbers, smallest number first; None for any other variable."""
    values = variable.choice or ("",)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    return sorted(range(1, len(values) + 1), key=lambda place: values[place - 1])


def _distribution(variable: Variable) -> BaseDistribution:
    lower, upper = variable.bounds
    if variable.kind == "choice" and _by_value(variable) is None:
        return CategoricalDistribution(range(1, int(upper) + 1))
    return IntDistribution(int(lower), int(upper)) if variable.whole else FloatDistribution(lower, upper)


class _Sampled:
    """An Optuna study in memory with one sampler; its trials are the proposals."""

    def __init__(self, sampler: BaseSampler, space: Space, x0: Sequence[Point]) -> None:
        self._variables = {name: space.variables[name] for name in space.free}
        self._distributions = {name: _distribution(variable) for name, variable in self._variables.items()}
        self._order = {name: _by_value(variable) for name, variable in self._variables.items()}
        self._pending: dict[int, Trial] = {}
        self._asked = 0
        self._held: list[Outcome] = []
        self._constraints: int | None = None
        with _silence():
            self._study = optuna.create_study(sampler=sampler)
            for point in x0:
                self._study.enqueue_trial(self._params(point))

    def ask(self, count: int) -> list[Proposal]:
        return [self._propose() for _ in range(count)]

    def tell(self, outcome: Outcome) -> None:
        # What failed has no constraints, and Optuna wants as many for each trial: until a good point has shown how
        # many there are, failed ones stay pending, which every sampler avoids as well.
        self._held.append(outcome)
        if outcome.status == "ok":
            self._constraints = len(outcome.constraints)
        if self._constraints is not None:
            for held in self._held:
                with _silence():
                    self._close(self._pending.pop(held.number), held)
            self._held.clear()

    def _propose(self) -> Proposal:
        with _silence():
            trial = self._study.ask(self._distributions)
        self._asked += 1
        self._pending[self._asked] = trial
        return Proposal(tuple(self._coordinate(name, trial.params[name]) for name in self._variables))

    def _close(self, trial: Trial, outcome: Outcome) -> None:
        for place, value in enumerate(outcome.constraints or [math.inf] * (self._constraints or 0)):
            trial.set_constraint(str(place), value)
        self._study.tell(trial, outcome.objective)

    def _coordinate(self, name: str, param: Any) -> float:
        order = self._order[name]
        return float(param if order is None else order[param - 1])

    def _params(self, point: Point) -> dict[str, Any]:
        params = {}
        for (name, variable), x in zip(self._variables.items(), point, strict=True):
            order = self._order[name]
            params[name] = order.index(int(x)) + 1 if order is not None else int(x) if variable.whole else float(x)
        return params

    def _known_from_the_start(self, sampler: BaseSampler, numerical: bool = False) -> None:
        """Optuna learns the space of a study from its first trial, which is therefore random; here it is known."""
        space = {
            name: distribution
            for name, distribution in self._distributions.items()
            if not distribution.single() and not (numerical and isinstance(distribution, CategoricalDistribution))
        }
        sampler.infer_relative_search_space = lambda study, trial: space  # type: ignore[method-assign]


class Random(_Sampled):
    """Uniform in the coordinates."""

    def __init__(self, space: Space, x0: Sequence[Point], budget: int, seed: int) -> None:
        super().__init__(RandomSampler(seed), space, x0)


class Sobol(_Sampled):
    """Points of a Sobol sequence (Optuna's QMC sampler)."""

    def __init__(self, space: Space, x0: Sequence[Point], budget: int, seed: int, *, scramble: bool = True) -> None:
        with _silence():
            sampler = QMCSampler(qmc_type="sobol", scramble=scramble, seed=seed)
        super().__init__(sampler, space, ())
        self._known_from_the_start(sampler)


class TPE(_Sampled):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), Optuna's.

    What failed is a complete trial of objective inf: TPE looks at ranks alone, so it is one of the bad points, where a
    failed trial would be forgotten and its surroundings proposed again. What was stopped is a pruned trial, which TPE
    ranks by its epoch and its value there, behind all that are complete. Pending points count as bad ones.
    """

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        n_startup_trials: int = 10,
        n_ei_candidates: int = 24,
        multivariate: bool = True,
    ) -> None:
        _check_startup(n_startup_trials, budget)
        _check_positive("n_ei_candidates", n_ei_candidates)
        sampler = TPESampler(
            n_startup_trials=n_startup_trials,
            n_ei_candidates=n_ei_candidates,
            multivariate=multivariate,
            constant_liar=True,
            seed=seed,
        )
        super().__init__(sampler, space, x0)

    def _close(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.status != "stopped":
            return super()._close(trial, outcome)
        for place, value in enumerate(outcome.constraints):
            trial.set_constraint(str(place), value)
        trial.report(outcome.objective, round(1000 * (outcome.epoch or 0)))  # steps are whole, epochs need not be
        self._study.tell(trial, state=TrialState.PRUNED)
        return None


class _QuickGP(GPSampler):
    """Optuna's, in a third of the time: a replay asks for every point anew."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Local searches of the acquisition function, of 10: the best of 28 points was as good or within 0.001 (8 runs).
        self._n_local_search = 4

    def _sample_relative_impl(self, *arguments: Any) -> dict[str, Any]:
        # Around this, GPSampler sets torch's device to the CPU, by a mode that sees each of the many small calls; it is
        # the CPU anyway. The same points in 0.57 of the time.
        import torch  # noqa: PLC0415 - two seconds that the other samplers do not need

        with torch._C.DisableTorchFunction():
            return super()._sample_relative_impl(*arguments)


class GP(_Sampled):
    """Gaussian process with log expected improvement, Optuna's; with pending points qLogEI, with constraints LogCEI.

    What failed is a complete trial of objective inf, which GPSampler takes for the worst value that it has seen at each
    fit; so for its constraints. What was stopped counts as complete with its last value: GPSampler reads no others, and
    would propose it again.
    """

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        n_startup_trials: int = 10,
        deterministic_objective: bool = False,
    ) -> None:
        _check_startup(n_startup_trials, budget)
        with _silence():
            sampler = _QuickGP(
                n_startup_trials=n_startup_trials, deterministic_objective=deterministic_objective, seed=seed
            )
        super().__init__(sampler, space, x0)


class CMAES(_Sampled):
    """CMA-ES, with margin (Hamano et al. 2022) unless told otherwise, Optuna's. Its mean begins at the first X0.

    Ranks are all it sees of the objective: what failed comes last, behind what violates constraints, and that, by its
    violation, behind all that is feasible (Deb 2000). What was stopped has its last value. A choice of words has no
    place in a normal distribution: Optuna draws it at random.
    """

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        sigma0: float | None = None,
        popsize: int | None = None,
        with_margin: bool = True,
    ) -> None:
        """`sigma0` is a share of the bounds' width (default 1/6)."""
        if sigma0 is not None:
            _check_positive("sigma0", sigma0)
        if popsize is not None and not 2 <= popsize < budget:
            raise InputError(f"--set popsize: must be at least 2 and below the budget of {budget}, got {popsize}")
        with _silence():
            sampler = CmaEsSampler(
                sigma0=sigma0, popsize=popsize, with_margin=with_margin, n_startup_trials=0, seed=seed
            )
        super().__init__(sampler, space, x0)
        self._known_from_the_start(sampler, numerical=True)
        if x0:
            # Its parameter x0 would want these names alone.
            sampler._x0 = self._params(x0[0])

    def _close(self, trial: Trial, outcome: Outcome) -> None:
        violation = sum(max(value, 0.0) for value in outcome.constraints)
        self._study.tell(trial, _INFEASIBLE * (1 + violation) if violation else outcome.objective)


def _check_startup(n_startup_trials: int, budget: int) -> None:
    if not 0 <= n_startup_trials < budget:
        raise InputError(
            f"--set n_startup_trials: {n_startup_trials} random points of a budget of {budget} leave none to be "
            f"proposed by the model, it must be from 0 to {budget - 1}"
        )


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"--set {name}: must be above 0, got {value:g}")

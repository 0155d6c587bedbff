"""An Optuna study behind ask / tell, for the samplers of bbo/optimizers/samplers.py.

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
from optuna.samplers import BaseSampler
from optuna.trial import Trial

from bbo.optimizers import Outcome, Proposal
from bbo.space import Point, Space, Variable


@contextmanager
def silence() -> Iterator[None]:
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


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Of the parameters that stand for the space's coordinates."""
    return {name: _distribution(space.variables[name]) for name in space.free}


class Sampled:
    """An Optuna study in memory with one sampler; its trials are the proposals."""

    def __init__(self, sampler: BaseSampler, space: Space, x0: Sequence[Point], objectives: int = 1) -> None:
        self._variables = {name: space.variables[name] for name in space.free}
        self._distributions = distributions(space)
        self._order = {name: _by_value(variable) for name, variable in self._variables.items()}
        self._pending: dict[int, Trial] = {}
        self._asked = 0
        self._held: list[Outcome] = []
        self._constraints: int | None = None
        with silence():
            self._study = optuna.create_study(sampler=sampler, directions=["minimize"] * objectives)
            for point in x0:
                self._study.enqueue_trial(self.params(point))

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
                with silence():
                    self.close(self._pending.pop(held.number), held)
            self._held.clear()

    def _propose(self) -> Proposal:
        with silence():
            trial = self._study.ask(self._distributions)
        self._asked += 1
        self._pending[self._asked] = trial
        return Proposal(tuple(self._coordinate(name, trial.params[name]) for name in self._variables))

    def close(self, trial: Trial, outcome: Outcome) -> None:
        for place, value in enumerate(outcome.constraints or [math.inf] * (self._constraints or 0)):
            trial.set_constraint(str(place), value)
        self._study.tell(trial, outcome.objectives)

    def _coordinate(self, name: str, param: Any) -> float:
        order = self._order[name]
        return float(param if order is None else order[param - 1])

    def params(self, point: Point) -> dict[str, Any]:
        params = {}
        for (name, variable), x in zip(self._variables.items(), point, strict=True):
            order = self._order[name]
            params[name] = order.index(int(x)) + 1 if order is not None else int(x) if variable.whole else float(x)
        return params

    def known_from_the_start(self, sampler: BaseSampler, numerical: bool = False) -> None:
        """Optuna learns the space of a study from its first trial, which is therefore random; here it is known."""
        space = {
            name: distribution
            for name, distribution in self._distributions.items()
            if not distribution.single() and not (numerical and isinstance(distribution, CategoricalDistribution))
        }
        sampler.infer_relative_search_space = lambda study, trial: space  # type: ignore[method-assign]

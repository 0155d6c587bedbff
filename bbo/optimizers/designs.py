"""Designs: points that are all known before the first is evaluated. What is told changes nothing; X0 is not used."""

import itertools
import math
import random
from collections.abc import Sequence
from typing import Literal

from bbo.optimizers import Outcome, Proposal
from bbo.space import Point, Space, Variable


class _Design:
    """A list of points, proposed in order; finished at its end."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = [tuple(map(float, point)) for point in points]
        self._asked = 0

    def ask(self, count: int) -> list[Proposal]:
        first, self._asked = self._asked, min(self._asked + count, len(self._points))
        return [Proposal(point) for point in self._points[first : self._asked]]

    def tell(self, outcome: Outcome) -> None:
        pass


class Grid(_Design):
    """`budget` points of the product of all variables' levels, in a seeded random order; fewer where there are fewer.

    A choice has all its values, a number ceil(budget^(1/free variables)) levels, evenly spread, and more where the
    product would not reach the budget; an `int` at most as many as there are whole numbers.
    """

    def __init__(self, space: Space, x0: Sequence[Point], budget: int, seed: int, *, objectives: int = 1) -> None:
        # Not Optuna's: its GridSampler lists the whole product, which choices alone may make too large for the memory.
        levels = _grid([space.variables[name] for name in space.free], budget)
        size = math.prod(map(len, levels))
        places = random.Random(seed).sample(range(size), min(budget, size))
        super().__init__([_at(levels, place) for place in places])


class LHS(_Design):
    """Latin hypercube of `budget` points (scipy.stats.qmc); whole variables have every level equally often, give or
    take one."""

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        objectives: int = 1,
        optimization: Literal["random-cd", "lloyd"] | None = None,
    ) -> None:
        from scipy.stats import qmc  # noqa: PLC0415 - slow, not for the grid

        variables = [space.variables[name] for name in space.free]
        sampler = qmc.LatinHypercube(len(variables), optimization=optimization, rng=seed)
        rows = sampler.random(budget)
        super().__init__([tuple(map(_stretch, variables, row, [budget] * len(row))) for row in rows.tolist()])


def _stretch(variable: Variable, x: float, budget: int) -> float:
    """The coordinate for x in [0, 1); a whole one by the stratum of x, since a stratum may lie across two levels."""
    lower, upper = variable.bounds
    if variable.whole:
        return lower + math.floor(x * budget) * int(upper - lower + 1) // budget
    return min(lower + x * (upper - lower), upper)


def _grid(variables: Sequence[Variable], budget: int) -> list[list[float]]:
    least = next(count for count in itertools.count(1) if count ** len(variables) >= budget)
    for count in itertools.count(least):
        sizes = [_size(each) if each.kind == "choice" else min(count, _size(each)) for each in variables]
        if math.prod(sizes) >= budget or count >= max(map(_size, variables)):
            break
    return [_levels(each, int(size)) for each, size in zip(variables, sizes, strict=True)]


def _size(variable: Variable) -> float:
    """How many values it can take."""
    lower, upper = variable.bounds
    return upper - lower + 1 if variable.whole else 1 if lower == upper else math.inf


def _levels(variable: Variable, count: int) -> list[float]:
    lower, upper = variable.bounds
    if count == 1:
        levels = [(lower + upper) / 2]
    else:
        levels = [*(lower + place * (upper - lower) / (count - 1) for place in range(count - 1)), upper]
    return [math.floor(x + 0.5) for x in levels] if variable.whole else levels


def _at(levels: Sequence[Sequence[float]], place: int) -> Point:
    point = []
    for values in levels:
        place, here = divmod(place, len(values))
        point.append(values[here])
    return tuple(point)

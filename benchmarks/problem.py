"""What the optimizers race on: a mixed space, a value for each point of it, noise, and the best value there is."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bbo.space import Point, Space


@dataclass(frozen=True)
class Problem:
    """To be minimized. `value` is free of noise, Inf where a training fails; `x0` never does."""

    name: str
    space: Space
    x0: Point
    value: Callable[[Point], float]
    noise: float
    """Standard deviation of what is added to a value that is observed."""
    best: float
    """The lowest value that is known."""


@dataclass
class Recorder:
    """The blackbox of one run: what was observed, and the true value behind it, at most `budget` times.

    A point observed twice in a run shows the same value, as an evaluation with the same training seed does.
    """

    problem: Problem
    seed: int
    budget: int
    points: list[Point] = field(default_factory=list)
    observed: list[float] = field(default_factory=list)
    true: list[float] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.budget - len(self.observed)

    def __call__(self, point: Sequence[float]) -> float:
        """Inf for a point that fails, and for all that are behind the budget."""
        if not self.left:
            return math.inf
        variables = [self.problem.space.variables[name] for name in self.problem.space.free]
        exact = tuple(round(x) if v.whole else float(x) for x, v in zip(point, variables, strict=True))
        value = self.problem.value(exact)
        noise = random.Random(f"{self.seed} {exact}").gauss(0, self.problem.noise)
        self.points.append(exact)
        self.true.append(value)
        self.observed.append(value + noise)
        return value + noise


def regret(observed: Sequence[float], true: Sequence[float], first: float, best: float) -> float:
    """Normalised, of the point that was observed to be lowest: 0 the best known, 1 what the run began with."""
    chosen = min(range(len(observed)), key=observed.__getitem__)
    return (true[chosen] - best) / (first - best)


def uniform(space: Space, draw: random.Random) -> Point:
    """A point drawn uniformly from the bounds."""
    variables = [space.variables[name] for name in space.free]
    return tuple(
        draw.randint(int(v.lower), int(v.upper)) if v.whole else draw.uniform(v.lower, v.upper) for v in variables
    )

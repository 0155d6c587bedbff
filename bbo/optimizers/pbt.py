"""Population based training (Jaderberg et al. 2017, arXiv 1711.09846), synchronous.

A training is cut into intervals. After each the worst of a population take over weights and optimizer of the best
("exploit", by truncation selection) and go on with other values of what may change in flight ("explore", section 4.1).
A generation waits for all of the one before it; within it all proposals are independent. What comes of a run is no
point but a schedule of points: `bbo.lineage`.
"""

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence

from bbo.errors import InputError
from bbo.optimizers import Outcome, Proposal
from bbo.space import Point, Space, Variable

IN_FLIGHT = ("learning_rate", "weight_decay", "lora_dropout", "max_grad_norm", "label_smoothing_factor")
"""What may change within a training. All else shapes the adapter, its scale, the data or the schedule: inherited."""

DRAWS = 20
"""Tries for values that differ from the parent's: with the same it would be the parent's own next interval."""


class PBT:
    """Populations of whole trainings, one after another, until the budget is used up; the last may be smaller."""

    def __init__(  # noqa: PLR0913 - the settings
        self,
        *,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        intervals: int = 4,
        population: int = 4,
        quantile: float = 0.25,
        shrink: float = 0.8,
        grow: float = 1.2,
        resample: float = 0.25,
    ) -> None:
        """`resample` is the probability that a value is drawn anew instead of multiplied by `shrink` or `grow`.

        Raises InputError for a setting that makes no sense here.
        """
        self.intervals = intervals
        self._space = space
        self._random = random.Random(seed)
        self._first = deque(x0)
        self._budget = budget
        self._population = population
        self._quantile = quantile
        self._factors = shrink, grow
        self._resample = resample
        places = [(place, space.variables[name]) for place, name in enumerate(space.free) if name in IN_FLIGHT]
        self._mobile = {place: variable for place, variable in places if variable.lower < variable.upper}
        """The coordinates that may change."""
        self._check()
        self._proposed: list[Proposal] = []
        """All so far, by number; those of the generation under way wait in `_waiting` until they are asked for."""
        self._waiting: deque[Proposal] = deque()
        self._generation: list[int] = []
        """Numbers of the generation under way."""
        self._outcomes: dict[int, Outcome] = {}
        self._generations = self._plan()

    def ask(self, count: int) -> Sequence[Proposal]:
        if not self._waiting and all(number in self._outcomes for number in self._generation):
            self._waiting.extend(next(self._generations, ()))
            first = len(self._proposed) + 1
            self._generation = list(range(first, first + len(self._waiting)))
        asked = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._proposed += asked
        return asked

    def tell(self, outcome: Outcome) -> None:
        self._outcomes[outcome.number] = outcome

    def _plan(self) -> Iterator[list[Proposal]]:
        """The generations of all populations; each is asked for when the one before it is told."""
        for begun in range(0, self._budget, self._population):
            size = min(self._population, self._budget - begun)
            yield [Proposal(self._fresh()) for _ in range(size)]
            for _ in range(1, self.intervals):
                yield self._next()

    def _next(self) -> list[Proposal]:
        """Each member goes on from itself, the worst and the failed from one of the best."""
        ranked = sorted(self._generation, key=lambda number: (*_rank(self._outcomes[number]), number))
        few = max(1, math.floor(self._quantile * len(ranked)))
        good = [number for number in ranked if self._outcomes[number].status == "ok"]
        best = good[:few]
        lost = {*ranked[-few:], *(set(ranked) - set(good))} - set(best)
        return [self._continued(number, best, number in lost) for number in self._generation]

    def _continued(self, number: int, best: Sequence[int], is_lost: bool) -> Proposal:
        if not is_lost:
            return Proposal(self._proposed[number - 1].point, number)
        if not best:  # all have failed: there is nothing to go on from
            return Proposal(self._fresh())
        parent = self._random.choice(best)
        return Proposal(self._explored(self._proposed[parent - 1].point), parent)

    def _fresh(self) -> Point:
        """The next of X0, or a point of the space at random."""
        if self._first:
            return self._first.popleft()
        return tuple(self._drawn(self._space.variables[name]) for name in self._space.free)

    def _explored(self, point: Point) -> Point:
        for _ in range(DRAWS):
            changed = list(point)
            for place, variable in self._mobile.items():
                if self._random.random() < self._resample:
                    changed[place] = self._drawn(variable)
                else:
                    changed[place] = perturbed(variable, point[place], self._random.choice(self._factors))
            if tuple(changed) != point:
                break
        return tuple(changed)

    def _drawn(self, variable: Variable) -> float:
        low, high = variable.bounds
        return float(self._random.randint(int(low), int(high))) if variable.whole else self._random.uniform(low, high)

    def _check(self) -> None:
        rules = [
            ("intervals", self.intervals, self.intervals >= 2, "must be at least 2"),
            ("population", self._population, self._population >= 2, "must be at least 2"),
            ("population", self._population, self._population <= self._budget, f"exceeds the budget {self._budget}"),
            ("quantile", self._quantile, 0 < self._quantile <= 0.5, "must be above 0 and at most 0.5"),
            ("shrink", self._factors[0], 0 < self._factors[0] < 1, "must be above 0 and below 1"),
            ("grow", self._factors[1], self._factors[1] > 1, "must be above 1"),
            ("resample", self._resample, 0 <= self._resample <= 1, "must be from 0 to 1"),
        ]
        wrong = [f"--set {name}: {rule}, got {value}" for name, value, holds, rule in rules if not holds]
        if not self._mobile:
            wrong.append(f"space: pbt needs a variable that may change within a training: {', '.join(IN_FLIGHT)}")
        if wrong:
            raise InputError(*wrong)


def perturbed(variable: Variable, coordinate: float, factor: float) -> float:
    """The coordinate whose value is `factor` times this one's, within bounds; of a choice the neighbour, of an integer
    at least the next one."""
    low, high = variable.bounds
    step = math.copysign(1.0, factor - 1)
    if variable.kind == "choice":
        moved = coordinate + step
    elif variable.kind == "log10":
        moved = coordinate + math.log10(factor)
    else:
        moved = coordinate * factor
    if variable.kind == "int":
        moved = step * max(step * round(moved), step * coordinate + 1)
    return min(max(moved, low), high)


def _rank(outcome: Outcome) -> tuple[bool, bool, float]:
    """Smaller is better. What was stopped has no state to go on from, like what failed."""
    return outcome.status != "ok", any(value > 0 for value in outcome.constraints), outcome.objective

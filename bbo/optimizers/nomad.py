"""NOMAD as ask / tell: its batch run, held up where an answer is missing (bbo/mads.py)."""

import math
from collections.abc import Sequence

from bbo.mads import Answer, Mads, settings, statements
from bbo.optimizers import Outcome, Proposal
from bbo.space import Point, Space


class Nomad:
    """Mesh adaptive direct search, point by point what NOMAD's batch run proposes.

    Asked for more than NOMAD has to propose before it hears of pending ones, it returns fewer. A failed point is `Inf`
    with constraints of 0, as the blackbox prints it. One that was stopped early must not become the incumbent by a
    loss that others had at the same epoch, nor be forgotten: it is told the larger of its last loss and the
    incumbent's. How many constraints there are (PB) is learnt from the first good point; where X0 fails before, NOMAD
    begins again then, and what it no longer proposes counts for nothing.
    """

    def __init__(
        self,
        space: Space,
        x0: Sequence[Point],
        budget: int,
        seed: int,
        *,
        direction_type: str | None = None,
        block_size: int = 1,
        parameters: str = "",
    ) -> None:
        """`direction_type` as `ORTHO 2N`; `parameters`: other statements of NOMAD's, with `;` between them."""
        self._starts = [*x0] or [space.middle()]
        bounds = [space.variables[name].bounds for name in space.free]
        self._whole = [space.variables[name].whole for name in space.free]
        self._free = [place for place, (lower, upper) in enumerate(bounds) if lower < upper]  # NOMAD wants no others
        self._bounds = [bounds[place] for place in self._free]
        self._settings = (f"MAX_BB_EVAL {budget}", *settings(direction_type, block_size, parameters))
        self._seed = seed
        self._constraints = 0
        self._mads = self._begin()
        self._answers: dict[Point, Answer] = {}
        self._incumbent = math.inf
        self._proposed: list[Point] = []
        self._pending = 0

    def ask(self, count: int) -> list[Proposal]:
        if not self._proposed and not self._pending:
            self._proposed = [self._outer(point) for point in self._mads.unanswered(self._answer)]
        now, self._proposed = self._proposed[:count], self._proposed[count:]
        self._pending += len(now)
        return [Proposal(point) for point in now]

    def tell(self, outcome: Outcome) -> None:
        self._pending -= 1
        value = outcome.objective
        if outcome.status == "stopped" and self._incumbent < math.inf:
            value = max(value, self._incumbent)
        if outcome.status == "ok" and all(each <= 0 for each in outcome.constraints):
            self._incumbent = min(self._incumbent, value)
        self._answers[self._inner(outcome.point)] = (value, *outcome.constraints)
        if len(outcome.constraints) > self._constraints:
            self._constraints = len(outcome.constraints)
            self._mads.close()
            self._mads = self._begin()

    def _begin(self) -> Mads:
        lower, upper = zip(*self._bounds, strict=True)
        whole = [self._whole[place] for place in self._free]
        starts = [self._inner(point) for point in self._starts]
        return Mads((*statements(lower, upper, whole, starts, self._constraints, self._seed), *self._settings))

    def _answer(self, point: Point) -> Answer | None:
        known = self._answers.get(point)
        return known and (known + (0.0,) * self._constraints)[: 1 + self._constraints]

    def _inner(self, point: Point) -> Point:
        return tuple(float(point[place]) for place in self._free)

    def _outer(self, point: Point) -> Point:
        outer = [float(x) for x in self._starts[0]]
        for place, x in zip(self._free, point, strict=True):
            outer[place] = x
        return tuple(outer)

"""SOO: simultaneous optimistic optimization (Munos 2011), for minimising.

R. Munos, "Optimistic optimization of a deterministic function without the knowledge of its smoothness", NIPS 2011. The
box is a tree of cells, each judged by the value at its centre. A sweep goes from the largest cells to the smallest and
splits the best leaf of each depth, unless a larger one was better.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from bbo.errors import InputError
from bbo.optimizers import Outcome, Proposal
from bbo.space import Point, Space, Variable


@dataclass(frozen=True)
class Side:
    """What a cell holds of one variable: an interval, or the whole numbers from `low` to `high`."""

    low: float
    high: float
    centre: float
    whole: bool
    share: Fraction = Fraction(1)
    """Of the variable's values; exact, so that sides of equal width are equal, whatever they were split from."""

    def split(self, k: int) -> "list[Side]":
        """k equal parts, or as many as there are whole numbers; itself alone where it cannot be split.

        One part has the centre of the side, to the last bit: the middle one, wherever there are k.
        """
        if self.whole:
            count = int(self.high) - int(self.low) + 1
            # i count / k to the nearest whole number, never halfway as k is odd: symmetric, so the centre stays one
            edges = [int(self.low) + (2 * i * count + k) // (2 * k) for i in range(k + 1)]
            return [
                Side(a, b - 1, (a + b - 1) // 2, True, self.share * Fraction(b - a, count))
                for a, b in pairwise(edges)
                if a < b
            ]
        inner = [self.low + (self.high - self.low) * i / k for i in range(1, k)]
        parts = [Side(a, b, (a + b) / 2, False, self.share / k) for a, b in pairwise((self.low, *inner, self.high))]
        parts[k // 2] = replace(parts[k // 2], centre=self.centre)
        return parts if all(part.low < part.centre < part.high for part in parts) else [self]  # out of digits


Cell = tuple[Side, ...]


def whole_box(space: Space) -> Cell:
    """All points of the space."""
    return tuple(_side(space.variables[name]) for name in space.free)


def _side(variable: Variable) -> Side:
    middle = (variable.lower + variable.upper) / 2
    return Side(variable.lower, variable.upper, math.floor(middle) if variable.whole else middle, variable.whole)


def centre(cell: Cell) -> Point:
    """The point that stands for a cell."""
    return tuple(side.centre for side in cell)


def split(cell: Cell, k: int) -> list[Cell]:
    """The cells that its widest side (the first of equals) is split into; none where the cell is one point."""
    for axis in sorted(range(len(cell)), key=lambda i: -cell[i].share):
        parts = cell[axis].split(k)
        if len(parts) > 1:
            return [(*cell[:axis], part, *cell[axis + 1 :]) for part in parts]
    return []


@dataclass(eq=False)
class Leaf:
    """A cell that was not split, and what is known of its centre: nothing (NaN) until it was told."""

    children: list[Cell]
    point: Point
    value: float = math.nan
    evaluated: bool = True


class SOO:
    """Asks for centres of ever smaller cells; ignores `x0` and `seed`: it begins with the middle and draws nothing.

    A failed or infeasible point counts as Inf: its cell is split when no better one of its depth is left.

    What is split next depends on the values of the points asked for, and on nothing else: neither on the size of blocks
    nor on the order of the outcomes. A block therefore holds only what follows from the outcomes told so far, k - 1
    points as a rule; `ask` goes on from there when it knows the values on which the next split depends.
    """

    def __init__(
        self, space: Space, x0: Sequence[Point], budget: int, seed: int, *, k: int = 3, h_max: int | None = None
    ) -> None:
        """`k`, odd, is how many parts a side is cut into. Cells deeper than `h_max` wait for all others.

        Without a number, h_max(t) after t splits is sqrt(t) + two cuts for each variable. It is sqrt(t) in Munos (2011,
        section 4): with 25 splits in five variables a single cut of each, the worst of eight rules at 20 to 100 points.
        """
        if k < 3 or k % 2 == 0:
            raise InputError(f"--set k: must be odd and at least 3, got {k}")
        if h_max is not None and h_max < 0:
            raise InputError(f"--set h_max: must be at least 0, got {h_max}")
        self._root, self._budget, self._k, self._h_max = whole_box(space), budget, k, h_max
        self._splits = 0
        self._depths: list[list[Leaf]] = []
        self._proposed: list[Leaf] = []
        self._asked = 0
        self._search = self._sweeps()

    def ask(self, count: int) -> list[Proposal]:
        wanted = min(self._asked + count, self._budget)
        while len(self._proposed) < wanted and next(self._search, False):
            pass
        block = self._proposed[self._asked : wanted]
        self._asked += len(block)
        return [Proposal(leaf.point) for leaf in block]

    def tell(self, outcome: Outcome) -> None:
        feasible = all(constraint <= 0 for constraint in outcome.constraints)
        self._proposed[outcome.number - 1].value = outcome.objective if feasible else math.inf

    def _sweeps(self) -> Iterator[bool]:
        """The algorithm (Munos 2011, figure 2), with min for max; False: it must hear of an outcome first."""
        self._add(0, [self._root], None)
        yield True
        while any(self._depths):  # else each cell is one point
            bound, depth = math.inf, 0  # v_max, h
            while depth <= self._deepest():  # for h = 0 to min(depth(T), h_max(t))
                leaves = self._depths[depth]
                while any(math.isnan(leaf.value) for leaf in self._needed(leaves)):
                    yield False
                best = min(leaves, key=lambda leaf: leaf.value, default=None)
                if best is not None and best.value <= bound:  # f(x) >= v_max
                    leaves.remove(best)
                    self._add(depth + 1, best.children, best)  # of this very sweep, as all leaves are
                    self._splits += 1  # t
                    bound = best.value
                    yield True
                depth += 1

    def _deepest(self) -> int:
        """min(depth(T), h_max(t)), or where the largest cells are, should they be smaller."""
        h_max = 2 * len(self._root) + math.isqrt(self._splits) if self._h_max is None else self._h_max
        largest = next((depth for depth, leaves in enumerate(self._depths) if leaves), 0)
        return min(len(self._depths) - 1, max(h_max, largest))

    def _add(self, depth: int, cells: Sequence[Cell], parent: Leaf | None) -> None:
        """New leaves. One that has its parent's centre, to the bit, has its value too."""
        if depth == len(self._depths):
            self._depths.append([])
        for cell in cells:
            leaf = Leaf(split(cell, self._k), centre(cell))
            if parent is not None and parent.evaluated and leaf.point == parent.point:
                leaf.value = parent.value
            elif (bound := self._bound(leaf.point)) is not None:
                leaf.value, leaf.evaluated = bound, False
            else:
                self._proposed.append(leaf)
            if leaf.children:
                self._depths[depth].append(leaf)

    def _needed(self, leaves: Sequence[Leaf]) -> Sequence[Leaf]:
        """Those whose value the choice among `leaves`, and what follows from it, depend on."""
        return leaves

    def _bound(self, point: Point) -> float | None:
        """What to take instead of the value of a centre; None: it is evaluated."""
        return None

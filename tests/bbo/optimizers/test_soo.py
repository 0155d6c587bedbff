"""SOO: its cells tile the box, its points never repeat, and blocks change nothing."""

import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations, product

import pytest

from bbo.errors import InputError
from bbo.optimizers import Optimizer, Outcome, Proposal
from bbo.optimizers.soo import SOO, Cell, Side, centre, split, whole_box
from bbo.space import Point, Space, Variable

Function = Callable[[Point], float]


def space(**variables: object) -> Space:
    return Space({name: Variable.model_validate(v) for name, v in variables.items()})


PLANE = space(x={"float": [-5, 10]}, y={"float": [0, 15]})
CUBE = space(x={"float": [0, 1]}, y={"float": [0, 1]}, z={"float": [0, 1]})
MIXED = space(
    rank={"choice": [2, 4, 8, 16, 32, 64]}, alpha={"int": [1, 64]}, dropout={"choice": [0, 0.1]},
    rate={"log10": [-5, -1]}, seed={"fixed": 0}, same={"int": [3, 3]},
)  # fmt: skip
FINITE = space(a={"int": [-3, 4]}, b={"choice": ["x", "y", "z"]}, c={"int": [0, 1]})


def branin(point: Point) -> float:
    """0.397887 at three places."""
    x, y = point
    valley = y - 5.1 * x * x / (4 * math.pi**2) + 5 * x / math.pi - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def bowl(point: Point) -> float:
    """0 at (0.3, 0.3, ...)."""
    return sum((x - 0.3) ** 2 for x in point)


def lora_like(point: Point) -> float:
    """0 at rank 16, alpha 23, dropout 0, rate 10**-2.3."""
    rank, alpha, dropout, rate, _ = point
    return 0.3 * (rate + 2.3) ** 2 + 0.02 * (rank - 4) ** 2 + 0.03 * math.log2(alpha / 23) ** 2 + 0.02 * (dropout - 1)


def steps(point: Point) -> float:
    a, b, c = point
    return (a - 4) ** 2 + (b - 1) ** 2 + c


def drive(optimizer: Optimizer, function: Function, block: int = 1, shuffled: int | None = None) -> list[Point]:
    """The points asked for. `shuffled`: the seed of an asynchronous run, where outcomes come in any order."""
    points: list[Point] = []
    pending: list[tuple[int, Proposal]] = []
    draw = random.Random(shuffled)
    while True:
        asked = optimizer.ask(block - len(pending))
        assert len(asked) <= block - len(pending)
        pending += enumerate(asked, start=len(points) + 1)
        points += [proposal.point for proposal in asked]
        if not pending:
            return points
        if shuffled is not None:
            draw.shuffle(pending)
        for number, proposal in pending[: 1 if shuffled is not None else None]:
            value = function(proposal.point)
            status = "ok" if value < math.inf else "failed"
            optimizer.tell(Outcome(number, proposal.point, status, value))  # type: ignore[arg-type]
        pending = pending[1:] if shuffled is not None else []


def split_at_random(cells: list[Cell], k: int, draw: random.Random) -> list[Cell]:
    chosen = cells.pop(draw.randrange(len(cells)))
    parts = split(chosen, k)
    assert [centre(part) for part in parts].count(centre(chosen)) == (1 if parts else 0)
    return [*cells, *(parts or [chosen])]


def holds(side: Side, x: float) -> bool:
    return side.low <= x <= side.high


@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("where", [PLANE, MIXED, FINITE])
def test_cells_tile_the_box(where: Space, k: int) -> None:
    draw = random.Random(k)
    cells = [whole_box(where)]
    for _ in range(150):
        cells = split_at_random(cells, k, draw)
    assert sum(math.prod(side.share for side in cell) for cell in cells) == Fraction(1)
    for one, other in combinations(cells, 2):  # apart in some variable: beside each other, or with no number in common
        assert any(a.high <= b.low or b.high <= a.low for a, b in zip(one, other, strict=True) if a != b)
    assert all(holds(side, side.centre) for cell in cells for side in cell)
    for _ in range(200):
        point = [draw.uniform(s.low, s.high) if not s.whole else draw.randint(*_whole(s)) for s in whole_box(where)]
        assert sum(all(map(holds, cell, point)) for cell in cells) == 1


def _whole(side: Side) -> tuple[int, int]:
    return int(side.low), int(side.high)


def test_every_whole_point_is_in_one_leaf_until_each_is_one() -> None:
    cells, draw = [whole_box(FINITE)], random.Random(0)
    everything = sorted(product(range(-3, 5), (1, 2, 3), (0, 1)))
    while any(split(cell, 3) for cell in cells):
        cells = split_at_random(cells, 3, draw)
        inside = [list(product(*(range(a, b + 1) for a, b in map(_whole, cell)))) for cell in cells]
        assert sorted(point for points in inside for point in points) == everything
    assert sorted(map(centre, cells)) == everything


def test_a_side_out_of_digits_is_not_split() -> None:
    side = Side(1, math.nextafter(1, 2), 1, False)
    assert side.split(3) == [side]
    assert drive(SOO(space(x={"float": [1, math.nextafter(1, 2)]}), (), 9, 0), bowl) == [(1.0,)]


def test_the_order_is_that_of_the_paper() -> None:
    """By hand, on [0, 1] with f(x) = x and h_max = 1, which is lifted once no cell of depth 1 is left."""
    points = drive(SOO(space(x={"float": [0, 1]}), (), 11, 0, h_max=1), lambda point: point[0])
    expected = [1 / 2, 1 / 6, 5 / 6, 1 / 18, 5 / 18, 7 / 18, 11 / 18, 13 / 18, 17 / 18, 1 / 54, 5 / 54]
    assert [point[0] for point in points] == pytest.approx(expected)


def test_larger_cells_that_were_better_hold_smaller_ones_back() -> None:
    """On |x - 0.5| the middle cell, as good as its parent, is split all the way down; its neighbours are not."""
    points = drive(SOO(space(x={"float": [0, 1]}), (), 7, 0, h_max=99), lambda point: abs(point[0] - 0.5))
    assert [abs(point[0] - 0.5) for point in points[1:]] == pytest.approx([1 / 3, 1 / 3, 1 / 9, 1 / 9, 1 / 27, 1 / 27])


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize(("where", "function"), [(PLANE, branin), (CUBE, bowl), (MIXED, lora_like)])
def test_no_point_twice_and_the_budget_exact(where: Space, function: Function, k: int) -> None:
    points = drive(SOO(where, (), 200, 0, k=k), function, block=7)
    assert len(points) == len(set(points)) == 200
    for point in points:
        where.decode(point)
    assert points[0] == where.middle()


@pytest.mark.parametrize("budget", [1, 2, 30, 47, 48, 60])
def test_a_finite_space_ends(budget: int) -> None:
    points = drive(SOO(FINITE, (), budget, 0), steps, block=4)
    assert len(points) == len(set(points)) == min(budget, 48)


def best(optimizer: Optimizer, function: Function) -> float:
    return min(map(function, drive(optimizer, function)))


def test_known_optima_are_reached() -> None:
    assert best(SOO(PLANE, (), 100, 0), branin) < 0.397887 + 0.001
    assert best(SOO(CUBE, (), 100, 0), bowl) < 1e-4
    assert best(SOO(MIXED, (), 60, 0), lora_like) < 0.01
    assert best(SOO(FINITE, (), 30, 0), steps) == 0


@pytest.mark.parametrize(("where", "function"), [(PLANE, branin), (MIXED, lora_like), (FINITE, steps)])
def test_neither_blocks_nor_the_order_of_outcomes_change_the_points(where: Space, function: Function) -> None:
    def rough(point: Point) -> float:
        return math.inf if hash(point) % 7 == 0 else function(point)

    alone = drive(SOO(where, (), 80, 0), rough)
    for block in (2, 5, 80):
        assert drive(SOO(where, (), 80, 0), rough, block) == alone
        assert drive(SOO(where, (), 80, 0), rough, block, shuffled=block) == alone


def test_infeasible_is_as_failed_and_stopped_counts_as_told() -> None:
    def points(*bad: Outcome) -> Iterator[Point]:
        optimizer, number = SOO(PLANE, (), 30, 0), 0
        while block := optimizer.ask(1):
            number += 1
            yield block[0].point
            good = Outcome(number, block[0].point, "stopped", branin(block[0].point), epoch=1)
            optimizer.tell(next((outcome for outcome in bad if outcome.number == number), good))

    failed = list(points(Outcome(2, (), "failed", math.inf)))
    assert list(points(Outcome(2, (), "ok", 0.0, (-1.0, 0.1)))) == failed
    assert list(points(Outcome(2, (), "ok", 0.0, (-1.0, 0.0)))) != failed
    assert list(points()) == drive(SOO(PLANE, (), 30, 0), branin)


def test_goes_on_where_everything_fails() -> None:
    points = drive(SOO(PLANE, (), 40, 0), lambda _: math.inf, block=4)
    assert len(set(points)) == 40


def test_settings_are_checked() -> None:
    for k in (1, 4):
        with pytest.raises(InputError, match=f"--set k: must be odd and at least 3, got {k}"):
            SOO(PLANE, (), 9, 0, k=k)
    with pytest.raises(InputError, match="--set h_max: must be at least 0, got -1"):
        SOO(PLANE, (), 9, 0, h_max=-1)

"""BaMSOO: SOO's properties, and fewer evaluations for the same cells."""

import math
import time

import pytest

from bbo.errors import InputError
from bbo.optimizers import Outcome
from bbo.optimizers.bamsoo import BaMSOO
from bbo.optimizers.soo import SOO
from bbo.space import Point, Space
from tests.bbo.optimizers.test_soo import (
    CUBE,
    FINITE,
    MIXED,
    PLANE,
    Function,
    best,
    bowl,
    branin,
    drive,
    lora_like,
    steps,
)


@pytest.mark.parametrize(("where", "function"), [(PLANE, branin), (CUBE, bowl), (MIXED, lora_like)])
def test_no_point_twice_and_the_budget_exact(where: Space, function: Function) -> None:
    points = drive(BaMSOO(where, (), 50, 0), function, block=7)
    assert len(points) == len(set(points)) == 50
    for point in points:
        where.decode(point)


@pytest.mark.parametrize("budget", [30, 60])
def test_a_finite_space_ends_with_what_had_only_a_bound(budget: int) -> None:
    points = drive(BaMSOO(FINITE, (), budget, 0), steps, block=4)
    assert len(points) == len(set(points)) == min(budget, 48)
    assert points != drive(SOO(FINITE, (), budget, 0), steps)  # else no point had a bound


def test_known_optima_are_reached() -> None:
    assert best(BaMSOO(PLANE, (), 100, 0), branin) < 0.397887 + 0.001
    assert best(BaMSOO(CUBE, (), 60, 0), bowl) < 1e-4
    assert best(BaMSOO(MIXED, (), 60, 0), lora_like) < 0.01
    assert best(BaMSOO(FINITE, (), 30, 0), steps) == 0


def test_does_not_evaluate_what_cannot_be_best() -> None:
    """A slope: the GP is soon sure of the high end, where SOO goes on evaluating."""

    def high(points: list[Point]) -> int:
        return sum(sum(point) > 2 for point in points)

    assert high(drive(BaMSOO(CUBE, (), 50, 0), sum)) < high(drive(SOO(CUBE, (), 50, 0), sum))


@pytest.mark.parametrize(("where", "function"), [(PLANE, branin), (MIXED, lora_like), (FINITE, steps)])
def test_neither_blocks_nor_the_order_of_outcomes_change_the_points(where: Space, function: Function) -> None:
    def rough(point: Point) -> float:
        return math.inf if hash(point) % 7 == 0 else function(point)

    alone = drive(BaMSOO(where, (), 30, 0), rough)
    for block in (2, 5):
        assert drive(BaMSOO(where, (), 30, 0), rough, block) == alone
        assert drive(BaMSOO(where, (), 30, 0), rough, block, shuffled=block) == alone


@pytest.mark.parametrize("value", [0.0, math.inf])
def test_goes_on_where_all_are_equal(value: float) -> None:
    assert len(set(drive(BaMSOO(PLANE, (), 30, 0), lambda _: value, block=4))) == 30


def test_a_replay_of_100_points_is_quick() -> None:
    points = drive(BaMSOO(MIXED, (), 100, 0), lora_like)
    began = time.process_time()
    again = BaMSOO(MIXED, (), 100, 0)
    for number, point in enumerate(points, start=1):
        assert [proposal.point for proposal in again.ask(1)] == [point]
        again.tell(Outcome(number, point, "ok", lora_like(point)))
    assert again.ask(1) == []
    assert time.process_time() - began < 60


def test_eta_is_a_probability() -> None:
    for eta in (0, 1):
        with pytest.raises(InputError, match=f"--set eta: must be between 0 and 1, got {eta}"):
            BaMSOO(PLANE, (), 9, 0, eta=eta)

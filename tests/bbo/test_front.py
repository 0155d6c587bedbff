"""The Pareto front, the order behind it, and what is shown of it."""

import itertools
import random

import pytest

from bbo.experiment import Rank
from bbo.front import best_first, front


def dominates(one: Rank, other: Rank) -> bool:
    return one != other and all(x <= y for x, y in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_a_front_is_what_nothing_dominates(objectives: int) -> None:
    draw = random.Random(objectives)
    for _ in range(20):
        ranks = {
            number: (max(0.0, draw.uniform(-1, 0.3)), *(float(draw.randint(0, 6)) for _ in range(objectives)))
            for number in range(30)
        }
        good = {number: rank for number, rank in ranks.items() if rank[0] == 0}
        found = front(ranks)
        best = {rank for rank in good.values() if not any(dominates(other, rank) for other in good.values())}
        assert [ranks[number] for number in found] == sorted(best), "each once"
        assert all(number == min(n for n in good if ranks[n] == ranks[number]) for number in found), (
            "of equals the first"
        )


def test_none_is_feasible() -> None:
    assert front({"a": (0.5, 1.0), "b": (0.1, 2.0)}) == []
    assert best_first({"a": (0.5, 1.0), "b": (0.1, 2.0)}) == ["b", "a"]
    assert front({}) == best_first({}) == []


def test_one_objective_is_in_its_order() -> None:
    ranks = {"a": (0.0, 2.0), "b": (0.0, 1.0), "c": (1.0, 0.0), "d": (0.0, 2.0)}
    assert front(ranks) == ["b"]
    assert best_first(ranks) == ["b", "a", "d", "c"]


def test_fronts_one_behind_another_and_room_decides_within() -> None:
    """Of six on a line, at 0, 1, 5, 5.5, 6 and 11: the ends first, then what is far from its neighbours."""
    line = {f"at {x:g}": (0.0, x, 11 - x) for x in (0.0, 1.0, 5.0, 5.5, 6.0, 11.0)}
    behind = {name.replace("at", "behind"): (0.0, rank[1] + 20, rank[2] + 20) for name, rank in line.items()}
    violating = {"far": (9.0, 0.0, 0.0), "near": (1.0, 99.0, 99.0)}
    expected = ["at 0", "at 11", "at 6", "at 1", "at 5", "at 5.5"]
    for order in itertools.permutations([line, behind, violating]):
        ranks = {name: rank for part in order for name, rank in part.items()}
        assert best_first(ranks) == [
            *expected,
            *(name.replace("at", "behind") for name in expected),
            "near",
            "far",
        ]


def test_equal_ones_are_on_the_same_front() -> None:
    assert set(best_first({"a": (0.0, 1.0, 1.0), "b": (0.0, 2.0, 2.0), "c": (0.0, 1.0, 1.0)})[:2]) == {"a", "c"}

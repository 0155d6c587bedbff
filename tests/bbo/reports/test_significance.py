"""The tests of a comparison against values worked out by hand, and against all signs by brute force."""

import math
import random
from itertools import product

import pytest

from bbo.reports.significance import FEWEST, LEVEL, holm, mean, pairs, seeds_needed, signed_rank


def by_all_signs(differences: list[float]) -> float:
    """Two-sided p of the signed-rank test: the share of all choices of signs with a rank sum as far from its middle."""
    sizes = [abs(difference) for difference in differences if difference]
    ranks = [sum(other < size for other in sizes) + (sum(other == size for other in sizes) + 1) / 2 for size in sizes]
    signs = [math.copysign(1, difference) for difference in differences if difference]
    seen = abs(sum(sign * rank for sign, rank in zip(signs, ranks, strict=True)))
    sums = [abs(sum(s * r for s, r in zip(each, ranks, strict=True))) for each in product((-1, 1), repeat=len(ranks))]
    return sum(each >= seen - 1e-9 for each in sums) / len(sums)


def test_signed_rank_by_hand() -> None:
    assert signed_rank([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)
    # W- = 1: the signs of {} and {1} on either side, 4 of 64
    assert signed_rank([-1, 2, 3, 4, 5, 6]) == pytest.approx(4 / 64)
    assert signed_rank([1, -2, 3, -4, 5, -6, 7, -8]) == pytest.approx(by_all_signs([1, -2, 3, -4, 5, -6, 7, -8]))


def test_equal_and_zero_differences() -> None:
    assert signed_rank([0.0] * 10) == 1.0
    assert signed_rank([]) == 1.0
    draw = random.Random(0)
    for _ in range(20):
        differences = [float(draw.choice((-2, -1, -1, 0, 1, 2, 3))) for _ in range(10)]
        assert signed_rank(differences) == pytest.approx(by_all_signs(differences)), differences


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_mean_and_standard_error_by_hand() -> None:
    assert mean([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / math.sqrt(3)))
    assert mean([4.0]) == (4.0, None)


def test_fewest_seeds() -> None:
    """The least p that so many seeds can give, times the tests, is within the level; with one seed less it is not."""
    assert 2 / 2**FEWEST <= LEVEL < 2 / 2 ** (FEWEST - 1)
    for tests in (1, 3, 6, 15, 66):
        needed = seeds_needed(tests)
        assert tests * 2 / 2**needed <= LEVEL < tests * 2 / 2 ** (needed - 1)


def test_verdicts() -> None:
    losses = {seed: 1 + 0.1 * seed for seed in range(1, 9)}
    finals = {
        "good": losses,
        "same": dict(losses),
        "bad": {seed: loss + 0.01 * seed for seed, loss in losses.items()},
        "short": {seed: 9.0 for seed in range(1, 6)},
    }
    found = {(pair.a, pair.b): pair for pair in pairs(finals)}
    assert found["good", "same"].verdict == "tie" and found["good", "same"].p == 1.0
    assert found["good", "bad"].verdict == "better" and found["same", "bad"].verdict == "better"
    assert found["good", "bad"].p == pytest.approx(2 / 2**8)
    assert found["good", "bad"].holm == pytest.approx(3 * 2 / 2**8)  # the fourth to sixth pair were not tested
    assert found["good", "short"].verdict == "too few seeds" and found["good", "short"].p is None
    turned = pairs({"bad": finals["bad"], "good": finals["good"]})
    assert [pair.verdict for pair in turned] == ["worse"] and turned[0].median > 0


def test_only_common_seeds_are_paired() -> None:
    (pair,) = pairs({"a": dict.fromkeys(range(1, 11), 1.0), "b": dict.fromkeys(range(4, 20), 2.0)})
    assert pair.seeds == 7 and pair.verdict == "better" and pair.median == -1.0

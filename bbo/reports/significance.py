"""Which differences between methods are more than noise: paired signed-rank tests, corrected for their number."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median, stdev
from typing import Literal

LEVEL = 0.05

FEWEST = 6
"""Seeds of a pair: with 5 the least two-sided p of the exact test is 2/32."""

Verdict = Literal["better", "worse", "tie", "too few seeds"]


@dataclass(frozen=True)
class Pair:
    """Two methods on the same seeds. `p` values are None where there are too few."""

    a: str
    b: str
    seeds: int
    median: float
    """Of the differences a - b; below 0 where a is better. NaN without seeds."""
    p: float | None
    holm: float | None
    """p, corrected for the number of pairs."""
    verdict: Verdict
    """Of a against b; a tie is what these seeds cannot tell apart."""


def signed_rank(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's test. Zeros say nothing and are left out; 1 where nothing else is there.

    Exact up to 50 differences, with equal ones among them up to 13; normal beyond (scipy's `auto`).
    """
    from scipy.stats import wilcoxon  # noqa: PLC0415 - slow to load

    moved = [difference for difference in differences if difference != 0]
    return float(wilcoxon(moved).pvalue) if moved else 1.0


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided p of Student's test, for few seeds: it takes differences of a normal distribution for granted."""
    from scipy.stats import ttest_1samp  # noqa: PLC0415 - slow to load

    if min(differences) == max(differences):  # no noise at all
        return 0.0 if differences[0] else 1.0
    return float(ttest_1samp(differences, 0.0).pvalue)


def pairs(
    finals: Mapping[str, Mapping[int, float]],
    test: Callable[[Sequence[float]], float] = signed_rank,
    fewest: int = FEWEST,
) -> list[Pair]:
    """Every two methods, by their finals per seed (finite, smaller is better) on the seeds that both have.

    `test` gives the p of differences, of `fewest` or more.
    """
    found: list[tuple[str, str, list[float]]] = []
    for a, b in combinations(finals, 2):
        found.append((a, b, [finals[a][seed] - finals[b][seed] for seed in finals[a] if seed in finals[b]]))
    tested = [index for index, (_, _, differences) in enumerate(found) if len(differences) >= fewest]
    p = {index: test(found[index][2]) for index in tested}
    corrected = dict(zip(tested, holm([p[index] for index in tested]), strict=True))
    return [
        Pair(
            a,
            b,
            len(d),
            median(d) if d else math.nan,
            p.get(index),
            corrected.get(index),
            _verdict(d, corrected.get(index)),
        )
        for index, (a, b, d) in enumerate(found)
    ]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the k-th smallest of m is multiplied by m - k + 1, and never falls."""
    corrected, most = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        most = max(most, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = most
    return corrected


def seeds_needed(tests: int) -> int:
    """The fewest seeds with which so many corrected tests can tell anything apart."""
    return max(FEWEST, math.ceil(math.log2(2 * tests / LEVEL))) if tests else FEWEST


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, which a single value has none of."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return fmean(values), error


def _verdict(differences: Sequence[float], p: float | None) -> Verdict:
    if p is None:
        return "too few seeds"
    return "tie" if p > LEVEL else "better" if _rank_sum(differences) < 0 else "worse"


def _rank_sum(differences: Sequence[float]) -> float:
    """Ranks of the sizes, each with its difference's sign."""
    from scipy.stats import rankdata  # noqa: PLC0415 - slow to load

    moved = [difference for difference in differences if difference != 0]
    ranks = rankdata([abs(difference) for difference in moved])
    return float(sum(math.copysign(rank, difference) for rank, difference in zip(ranks, moved, strict=True)))

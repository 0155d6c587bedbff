"""Which evaluations of a run are best: one where there is one objective, a Pareto front where there are several."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from bbo.experiment import Experiment, Rank
from bbo.runlog import Answer, Ask, RunLog

Key = TypeVar("Key")


def front(ranks: Mapping[Key, Rank]) -> list[Key]:
    """The feasible ones that no other is at least as good as in everything, by their first objective.

    Of equals the first. With one objective that is the best one alone.
    """
    found: list[Key] = []
    for key, rank in ranks.items():
        if rank[0] > 0 or any(_covers(ranks[other], rank) for other in found):
            continue
        found = [other for other in found if not _covers(rank, ranks[other])] + [key]
    return sorted(found, key=lambda key: ranks[key])


def best_first(ranks: Mapping[Key, Rank]) -> list[Key]:
    """All of them: the front, then the front of the rest and so on, each by crowding; last the infeasible ones, by
    their violation.

    With one objective that is the order of the ranks.
    """
    if all(len(rank) == 2 for rank in ranks.values()):
        return sorted(ranks, key=lambda key: ranks[key])
    left = {key: rank for key, rank in ranks.items() if not rank[0] > 0}
    order: list[Key] = []
    while left:
        found = front(left)
        equal = {left[key] for key in found}
        level = [key for key in left if left[key] in equal]
        space = _crowding([left[key] for key in level])
        order += [level[i] for i in sorted(range(len(level)), key=lambda i: (-space[i], left[level[i]]))]
        left = {key: rank for key, rank in left.items() if rank not in equal}
    return order + sorted((key for key in ranks if ranks[key][0] > 0), key=lambda key: ranks[key])


def front_of(experiment: Experiment, log: RunLog) -> list[tuple[Ask, Answer]]:
    """Of the run's whole evaluations."""
    answered = told(log)
    ranks = {
        ask.number: experiment.rank(answer.values or ()) for ask, answer in answered if is_good(experiment, answer)
    }
    pairs = {ask.number: (ask, answer) for ask, answer in answered}
    return [pairs[number] for number in front(ranks)]


def least_violating(experiment: Experiment, log: RunLog) -> tuple[Ask, Answer] | None:
    """The whole evaluation nearest to feasibility, for a run that has no feasible one."""
    whole = [(ask, answer) for ask, answer in told(log) if _whole(answer)]
    return min(whole, key=lambda pair: experiment.rank(pair[1].values or ()), default=None)


def told(log: RunLog) -> list[tuple[Ask, Answer]]:
    """The run's evaluations that have an answer, but for declined ones."""
    pairs = [(ask, log.answers[ask.number]) for ask in log.driven if ask.number in log.answers]
    return [(ask, answer) for ask, answer in pairs if answer.source != "declined"]


def is_good(experiment: Experiment, answer: Answer) -> bool:
    """Neither failed nor declined nor stopped nor infeasible."""
    return _whole(answer) and not experiment.rank(answer.values or ())[0]


def _whole(answer: Answer) -> bool:
    return answer.source in ("trained", "store") and answer.values is not None


def _covers(one: Rank, other: Rank) -> bool:
    return all(x <= y for x, y in zip(one[1:], other[1:], strict=True))


def _crowding(ranks: Sequence[Rank]) -> list[float]:
    """How far apart the neighbours of each lie, summed over the objectives' widths; Inf at an end (Deb et al. 2002)."""
    space = [0.0] * len(ranks)
    for place in range(1, len(ranks[0])):
        order = sorted(range(len(ranks)), key=lambda i: ranks[i][place])
        values = [ranks[i][place] for i in order]
        width = values[-1] - values[0]
        if not 0 < width < math.inf:
            continue
        space[order[0]] = space[order[-1]] = math.inf
        for (before, _), (here, after) in pairwise(pairwise(range(len(order)))):
            space[order[here]] += (values[after] - values[before]) / width
    return space

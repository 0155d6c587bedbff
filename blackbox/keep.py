"""`resources.keep`: which adapters of a run stay on disk."""

import shutil

from bbo.experiment import Experiment
from bbo.index import Index
from bbo.store import Store


def prune(index: Index, store: Store, experiment: Experiment, owns_store: bool) -> None:
    """Delete this run's adapters but for the best, as `resources.keep` says; infeasible ones rank behind feasible.

    A surrogate's adapters are deleted, unless all are kept: at another fidelity they have no rank among the others.
    In a store that other runs share, only what this run itself trained is deleted. The answers since the last time are
    ranked with what was kept then: what was deleted before stays deleted.
    """
    kept = experiment.resources.kept
    if kept is None:
        return
    with index.locked():
        ranks = {key: tuple(rank) for key, rank in index.state.kept.items()}
        surrogates = set()
        for ask, answer in index.news():
            if answer.values is None or answer.source in ("failed", "stopped"):
                continue
            if not owns_store and answer.source != "trained":
                continue
            if ask.surrogate:
                surrogates.add(ask.key)
            else:
                ranks[ask.key] = experiment.rank(answer.values)
        order = sorted(ranks, key=lambda key: ranks[key])
        for key in [*order[kept:], *(surrogates - ranks.keys())]:
            shutil.rmtree(store.evaluation(key).adapter, ignore_errors=True)
        index.state.kept = {key: ranks[key] for key in order[:kept]}

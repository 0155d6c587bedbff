"""`resources.keep`: which adapters of a run stay on disk."""

import shutil

from bbo.experiment import Experiment
from bbo.index import Index
from bbo.store import Store


def prune(index: Index, store: Store, experiment: Experiment, owns_store: bool) -> None:
    """Delete this run's adapters but for the best, as `resources.keep` says; infeasible ones rank behind feasible.

    In a store that other runs share, only what this run itself trained is deleted. The answers since the last time are
    ranked with what was kept then: what was deleted before stays deleted.
    """
    kept = experiment.resources.kept
    if kept is None:
        return
    with index.locked():
        ranks = {key: tuple(rank) for key, rank in index.state.kept.items()}
        for ask, answer in index.news():
            if answer.values is None or answer.source == "failed":
                continue
            if owns_store or answer.source == "trained":
                ranks[ask.key] = experiment.rank(answer.values)
        order = sorted(ranks, key=lambda key: ranks[key])
        for key in order[kept:]:
            shutil.rmtree(store.evaluation(key).adapter, ignore_errors=True)
        index.state.kept = {key: ranks[key] for key in order[:kept]}

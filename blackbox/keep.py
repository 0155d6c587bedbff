"""`resources.keep`: which adapters of a run stay on disk."""

import shutil

from bbo.experiment import Experiment
from bbo.runlog import RunLog
from bbo.store import Store


def prune(log: RunLog, store: Store, experiment: Experiment, owns_store: bool) -> None:
    """Delete this run's adapters but for the best, as `resources.keep` says; infeasible ones rank behind feasible.

    A surrogate's adapters are deleted, unless all are kept: at another fidelity they have no rank among the others.
    In a store that other runs share, only what this run itself trained is deleted.
    """
    kept = experiment.resources.kept
    if kept is None:
        return
    ranks, surrogates = {}, set()
    for ask in log.asks:
        answer = log.answers.get(ask.number)
        if answer is None or answer.values is None or answer.source == "failed":
            continue
        if not owns_store and answer.source != "trained":
            continue
        if ask.surrogate:
            surrogates.add(ask.key)
        else:
            ranks[ask.key] = experiment.rank(answer.values)
    for key in [*sorted(ranks, key=lambda key: ranks[key])[kept:], *(surrogates - ranks.keys())]:
        shutil.rmtree(store.evaluation(key).adapter, ignore_errors=True)

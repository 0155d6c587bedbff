"""Which adapters or models (`resources.keep`) and states of a run stay on disk, or come here at all."""

from collections.abc import Callable, Iterable, Set

from bbo.experiment import Experiment, Rank
from bbo.front import best_first
from bbo.index import Index
from bbo.runlog import Answer, Ask
from bbo.store import Result, Store


def prune(index: Index, store: Store, experiment: Experiment, owns_store: bool) -> None:
    """Delete this run's adapters but for the best, as `resources.keep` says, and the states nobody goes on from.

    Of several objectives the front is best, then the front of the others, and so on; of a front that is too large those
    stay that have the most room around them. Infeasible adapters rank behind feasible ones.

    A surrogate's adapters are deleted, unless all are kept: at another fidelity they have no rank among the others.
    In a store that other runs share, only what this run itself trained is deleted. The answers since the last time are
    ranked with what was kept then: what was deleted before stays deleted.
    """
    kept = experiment.resources.kept
    with index.locked():
        news = index.news()
        _forget_states(index, store, news, owns_store)
        if kept is None:
            return
        ranks = {key: tuple(rank) for key, rank in index.state.kept.items()}
        surrogates = set()
        for ask, answer in news:
            if answer.values is None or answer.source in ("failed", "stopped"):
                continue
            if not owns_store and answer.source != "trained":
                continue
            if ask.surrogate:
                surrogates.add(ask.key)
            else:
                ranks[ask.key] = experiment.rank(answer.values)
        order = best_first(ranks)
        for key in [*order[kept:], *(surrogates - ranks.keys())]:
            store.evaluation(key).drop_weights()
        index.state.kept = {key: ranks[key] for key in order[:kept]}


def keeps(index: Index, experiment: Experiment, surrogates: Set[str]) -> Callable[[Result], bool]:
    """Whether an evaluation's adapter would stay if the run ended now: one that would not never will.

    One whose scores are still to come may; its adapter is needed for them too. For executors that carry it here.
    """
    kept = experiment.resources.kept
    ranks: dict[str, Rank] = {}

    def keeps(result: Result) -> bool:
        if not ranks:
            with index.locked():
                ranks.update({key: tuple(rank) for key, rank in index.state.kept.items()})
        if kept is None or result.status == "failed":
            return kept is None
        metrics = {**result.metrics, "gpu_seconds": result.gpu_seconds}
        if any(output.metric not in metrics for output in experiment.outputs):
            return True
        if result.key in surrogates:
            return False
        ranks[result.key] = experiment.rank([output.value(metrics) for output in experiment.outputs])
        return result.key in best_first(ranks)[:kept]

    return keeps


def _forget_states(index: Index, store: Store, news: Iterable[tuple[Ask, Answer]], owns_store: bool) -> None:
    """Of the intervals that an optimizer asks for, keep the states of the last two generations.

    An interval is answered: all of its parent's generation are, and none goes on from an older one any more. A first
    interval after others begins a new population.
    """
    ages = index.state.generations
    for ask, answer in news:
        result = store.evaluation(ask.key).result() if ask.fidelity and not ask.surrogate else None
        if result is None or result.parent is None:
            continue
        age = ages[result.parent][0] + 1 if result.parent in ages else 0
        begins = age == 0 and any(other > 0 for other, _ in ages.values())
        for key, (other, mine) in list(ages.items()):
            if begins or other < age - 1:
                del ages[key]
                if mine:
                    store.evaluation(key).state_file.unlink(missing_ok=True)
        ages[ask.key] = age, owns_store or answer.source == "trained"

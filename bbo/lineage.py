"""The schedule that an interval ends: the evaluations it goes on from, by the parents in their results."""

from bbo.store import ROOT, Result, Store


def lineage(store: Store, key: str) -> list[Result]:
    """The results from the first interval to the evaluation `key`; that one alone where it is a whole training."""
    chain: list[Result] = []
    result = store.evaluation(key).result()
    while result is not None:
        chain.insert(0, result)
        more = result.parent is not None and result.parent != ROOT
        result = store.evaluation(str(result.parent)).result() if more else None
    return chain


def schedule(store: Store, key: str) -> str | None:
    """What changes along the lineage, in one line; None where `key` is no interval with a parent."""
    chain = lineage(store, key)
    if len(chain) < 2:
        return None
    names = chain[0].hyperparameters
    changing = [name for name in names if len({repr(result.hyperparameters[name]) for result in chain}) > 1]
    parts = []
    for name in changing:
        values = (result.hyperparameters[name] for result in chain)
        parts.append(f"{name} {' > '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in values)}")
    return f"{len(chain)} intervals: {', '.join(parts) or 'nothing changed'}"

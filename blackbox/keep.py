"""`resources.keep`: which adapters of a run stay on disk."""

import shutil

from bbo.runlog import RunLog
from bbo.store import Store


def prune(log: RunLog, store: Store, objective: int, kept: int | None) -> None:
    """Delete the adapters that this run trained, but for the `kept` best by output number `objective`; None keeps all.

    What another run trained into a shared store is left alone.
    """
    if kept is None:
        return
    best: dict[str, float] = {}
    for ask in log.asks:
        answer = log.answers.get(ask.number)
        if answer is not None and answer.values is not None and answer.source == "trained":
            best[ask.key] = answer.values[objective]
    for key in sorted(best, key=lambda key: best[key])[kept:]:
        shutil.rmtree(store.evaluation(key).adapter, ignore_errors=True)

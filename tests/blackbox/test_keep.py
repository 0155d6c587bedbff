"""Which adapters stay on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bbo.experiment import read_experiment
from bbo.runlog import Answer, RunLog
from bbo.store import Store
from blackbox.keep import prune

LOSSES = {"a": 3.0, "b": 1.0, "c": 2.0, "low": 0.5}


@pytest.mark.parametrize(
    ("keep", "left"),
    [("best 2", {"b", "c"}), ("best 1", {"b"}), ("none", set()), ("all", {"a", "b", "c", "low"})],
)
def test_the_best_stay_and_no_surrogates(toy: Callable[..., Path], tmp_path: Path, keep: str, left: set[str]) -> None:
    file = toy(in_yaml={"model: toy": f"model: toy\nresources: {{keep: {keep}}}"}).with_suffix(".yaml")
    log, store = RunLog(tmp_path / "log.jsonl"), Store(tmp_path / "evals")
    for number, (key, loss) in enumerate(LOSSES.items(), start=1):
        with log.locked():
            log.ask([(1.0,)], [key], fidelity={"epochs_fraction": 0.5} if key == "low" else {}, surrogate=key == "low")
        log.answer(Answer(number, (loss, 0.0), "trained", 0.0))
        store.evaluation(key).adapter.mkdir(parents=True)
    prune(log, store, read_experiment(file), owns_store=True)
    assert {evaluation.key for evaluation in store if evaluation.adapter.is_dir()} == left

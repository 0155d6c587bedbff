"""`resources.keep`: the best adapters stay, judged one answer at a time or all at once; no surrogate's does."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from bbo.experiment import read_experiment
from bbo.index import Index
from bbo.run import Run
from bbo.runlog import Answer
from bbo.session import open_session
from bbo.store import ROOT as ROOT_KEY
from bbo.store import Result, Store
from blackbox.block import Blackbox
from blackbox.keep import keeps, prune
from tests.conftest import ROOT
from tests.runs import BOTH_YAML

LOSSES = {"a": 3.0, "b": 1.0, "c": 2.0, "low": 0.5}


@pytest.mark.parametrize("often", [True, False], ids=["after each", "at the end"])
@pytest.mark.parametrize(
    ("keep", "left"),
    [("best 2", {"b", "c"}), ("best 1", {"b"}), ("none", set()), ("all", {"a", "b", "c", "low"})],
)
def test_the_best_stay_and_no_surrogates(
    toy: Callable[..., Path], tmp_path: Path, keep: str, left: set[str], often: bool
) -> None:
    file = toy(in_yaml={"model: toy": f"model: toy\nresources: {{keep: {keep}}}"}).with_suffix(".yaml")
    run, store, experiment = Run(tmp_path), Store(tmp_path / "evals"), read_experiment(file)
    index = Index(run, open_session(run, run.log(), store, None, in_order=True))
    for number, (key, loss) in enumerate(LOSSES.items(), start=1):
        low = key == "low"
        with index.locked():
            index.ask([(1.0,)], [key], fidelity={"epochs_fraction": 0.5} if low else {}, surrogate=low)
        index.answer(Answer(number, (loss, 0.0), "trained", 0.0))
        store.evaluation(key).adapter.mkdir(parents=True)
        if often:
            prune(index, store, experiment, owns_store=True)
    prune(index, store, experiment, owns_store=True)
    assert {evaluation.key for evaluation in store if evaluation.adapter.is_dir()} == left


@pytest.mark.parametrize("often", [True, False], ids=["after each", "at the end"])
def test_the_best_three_stay(tmp_path: Path, often: bool) -> None:
    experiment = read_experiment(ROOT / "params" / "toy.yaml")
    run, store = Run(tmp_path), Store(tmp_path / "evals")
    draw = random.Random(0)
    losses = {f"k{number}": draw.random() for number in range(12)}
    for number, (key, loss) in enumerate(losses.items(), start=1):
        if number % 5 == 1:  # a new session has to find out again
            index = Index(run, open_session(run, run.log(), store, None, in_order=True))
        store.evaluation(key).adapter.mkdir(parents=True)
        with index.locked():
            index.ask([(float(number),)], [key])
        index.answer(Answer(number, (loss, 0.0), "trained", 0.0))
        if often:
            prune(index, store, experiment, owns_store=True)
    prune(index, store, experiment, owns_store=True)
    left = [key for key in losses if store.evaluation(key).adapter.is_dir()]
    assert sorted(left) == sorted(sorted(losses, key=lambda key: losses[key])[:3])


@pytest.mark.parametrize(
    ("keep", "first", "later"),
    [("best 2", "bc", "ad"), ("best 1", "b", ""), ("none", "", ""), ("all", "bcs", "ade")],
)
def test_whose_weights_are_carried_home(
    toy: Callable[..., Path], tmp_path: Path, keep: str, first: str, later: str
) -> None:
    """Who would stay if the run ended at that moment; `s` is a surrogate's. Two blocks."""
    file = toy(in_yaml={"model: toy": f"model: toy\nresources: {{keep: {keep}}}"}).with_suffix(".yaml")
    run, store, experiment = Run(tmp_path), Store(tmp_path / "evals"), read_experiment(file)
    index = Index(run, open_session(run, run.log(), store, None, in_order=True))

    def result(key: str, status: Literal["ok", "failed"] = "ok", **metrics: float) -> Result:
        return Result(
            key=key, status=status, metrics=metrics, hyperparameters={}, point=None, experiment="toy", seconds=0.0,
            phases={}, gpu_seconds=0.0, started=0.0, finished=0.0, host="", slot="", job="", seed=0,
        )  # fmt: skip

    def carried(losses: dict[str, float]) -> str:
        carries = keeps(index, experiment, {"s"})
        return "".join(key for key, loss in losses.items() if carries(result(key, eval_loss=loss, train_loss=0.0)))

    assert carried({"b": 1.0, "c": 9.0, "s": 0.0}) == first
    for number, (key, loss) in enumerate({"b": 1.0, "c": 9.0}.items(), start=1):
        with index.locked():
            index.ask([(float(number),)], [key])
        index.answer(Answer(number, (loss, 0.0), "trained", 0.0))
    prune(index, store, experiment, owns_store=True)
    assert carried({"a": 3.0, "d": 2.0, "e": 8.0}) == later
    assert keeps(index, experiment, set())(result("x", eval_loss=99.0)), "a score is still to come"
    assert keeps(index, experiment, set())(result("x", "failed")) == (keep == "all")


def test_in_a_shared_store_what_others_trained_stays(tmp_path: Path) -> None:
    experiment = read_experiment(ROOT / "params" / "toy.yaml")
    run, store = Run(tmp_path), Store(tmp_path / "evals")
    index = Index(run, None)
    for number in range(1, 9):
        store.evaluation(f"k{number}").adapter.mkdir(parents=True)
        with index.locked():
            index.ask([(float(number),)], [f"k{number}"], native=True)
        source = "store" if number > 4 else "trained"
        index.answer(Answer(number, (float(number), 0.0), source, 0.0))
        prune(index, store, experiment, owns_store=False)
    assert [number for number in range(1, 9) if not store.evaluation(f"k{number}").adapter.is_dir()] == [4]


def test_what_was_stopped_holds_no_place(tmp_path: Path) -> None:
    """The value told for it may equal the best one's."""
    experiment = read_experiment(ROOT / "params" / "toy.yaml")
    run, store = Run(tmp_path), Store(tmp_path / "evals")
    index = Index(run, open_session(run, run.log(), store, None, in_order=True))
    for number in range(1, 6):
        store.evaluation(f"k{number}").adapter.mkdir(parents=True)
        with index.locked():
            index.ask([(float(number),)], [f"k{number}"])
        index.answer(Answer(number, (float(number > 3), 0.0), "stopped" if number <= 3 else "trained", 0.0))
    prune(index, store, experiment, owns_store=True)
    assert all(store.evaluation(key).adapter.is_dir() for key in ("k4", "k5"))


def test_what_was_forgotten_holds_no_place(tmp_path: Path) -> None:
    experiment = read_experiment(ROOT / "params" / "toy.yaml")
    run, store = Run(tmp_path), Store(tmp_path / "evals")
    index = Index(run, None)
    for number in (1, 2, 3):
        with index.locked():
            index.ask([(float(number),)], [f"k{number}"], native=True)
        index.answer(Answer(number, (4.0 - number, 0.0), "trained", 0.0))
    prune(index, store, experiment, owns_store=True)
    assert list(index.state.kept) == ["k3", "k2", "k1"]
    run.log().forget(2)
    prune(index, store, experiment, owns_store=True)
    assert list(index.state.kept) == ["k1"]


@pytest.mark.parametrize("often", [True, False], ids=["after each", "at the end"])
def test_states_stay_for_two_generations(toy: Callable[..., Path], tmp_path: Path, often: bool) -> None:
    """Two populations of two members, each of four intervals; the second member always goes on from the first."""
    experiment = read_experiment(toy().with_suffix(".yaml"))
    run, store = Run(tmp_path), Store(tmp_path / "evals")
    blackbox = Blackbox(experiment, store, tmp_path / "preflight.json")
    index = Index(run, open_session(run, run.log(), store, None, in_order=True))
    quarter, left, number = {"epochs_fraction": 0.25}, [], 0
    for population in range(2):
        parent = ROOT_KEY
        for _ in range(4):
            points = [(3.0, 16.0 + population, 3.0, exponent) for exponent in (-3.5, -3.0)]
            asked = [blackbox.candidate(experiment.space.decode(p), p, quarter, parent) for p in points]
            for candidate in asked:
                number += 1
                with index.locked():
                    index.ask([candidate.point], [candidate.key], fidelity=quarter)
                blackbox.evaluate([candidate], lambda *_: None)
                index.answer(Answer(number, (1.0, 0.0), "trained", 0.0))
                if often:
                    prune(index, store, experiment, owns_store=True)
            parent = asked[0].key
            left.append(len(list(tmp_path.glob("evals/*/state.safetensors"))))
    prune(index, store, experiment, owns_store=True)
    if often:
        assert left == [2, 4, 4, 4, 2, 4, 4, 4]
    assert len(list(tmp_path.glob("evals/*/state.safetensors"))) == 4


@pytest.mark.parametrize("often", [True, False], ids=["after each", "at the end"])
def test_of_several_objectives_the_front_stays(toy: Callable[..., Path], tmp_path: Path, often: bool) -> None:
    """b and c are the front, a is behind it; d would be in front of all, but violates the constraint."""
    experiment = read_experiment(
        toy(in_yaml={**BOTH_YAML, "model: toy": "model: toy\nresources: {keep: best 2}"}).with_suffix(".yaml")
    )
    run, store = Run(tmp_path), Store(tmp_path / "evals")
    index = Index(run, open_session(run, run.log(), store, None, in_order=True))
    values = {
        "a": (1.5, 3.0, 0.0),
        "b": (5.0, 1.0, 0.0),
        "d": (0.0, 0.0, 0.1),
        "e": (9.0, 9.0, 0.0),
        "c": (1.0, 2.0, 0.0),
    }
    for number, (key, told) in enumerate(values.items(), start=1):
        with index.locked():
            index.ask([(float(number),)], [key])
        index.answer(Answer(number, told, "trained", 0.0))
        store.evaluation(key).adapter.mkdir(parents=True)
        if often:
            prune(index, store, experiment, owns_store=True)
    prune(index, store, experiment, owns_store=True)
    assert {evaluation.key for evaluation in store if evaluation.adapter.is_dir()} == {"b", "c"}

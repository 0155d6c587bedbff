"""Population based training as ask and tell, and the schedule that comes of it."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.lineage import lineage, schedule
from bbo.optimizers import Outcome, Proposal
from bbo.optimizers.pbt import PBT, perturbed
from bbo.space import Point, Space, Variable
from bbo.store import ROOT, Store
from blackbox.block import Blackbox

SPACE = Space(
    {
        "lora_rank": Variable(choice=(2, 4, 8, 16)),
        "lora_alpha": Variable(int=(1, 64)),
        "lora_dropout": Variable(choice=(0, 0.05, 0.1, 0.2)),
        "weight_decay": Variable(float=(0, 0.1)),
        "learning_rate": Variable(log10=(-5, -1)),
    }
)
X0 = (3.0, 16.0, 2.0, 0.01, -3.0)


def pbt(**settings: Any) -> PBT:
    return PBT(**{"space": SPACE, "x0": [X0], "budget": 4, "seed": 0, **settings})


def outcome(number: int, proposal: Proposal, objective: float | None = None) -> Outcome:
    """Failed without an objective."""
    if objective is None:
        return Outcome(number, proposal.point, "failed", math.inf)
    return Outcome(number, proposal.point, "ok", objective)


def rate(proposal: Proposal) -> float:
    """An objective: 10^-3.2 is best."""
    return abs(proposal.point[4] + 3.2)


def drive(optimizer: PBT, judge: Callable[[int, Proposal], Outcome], count: int = 3) -> list[Proposal]:
    """Ask and tell to the end, `count` at a time; what is told comes in reversed order."""
    proposals: list[Proposal] = []
    while block := optimizer.ask(count):
        first = len(proposals) + 1
        proposals += block
        for number, proposal in reversed(list(enumerate(block, start=first))):
            optimizer.tell(judge(number, proposal))
    return proposals


def test_the_bottom_follows_the_top() -> None:
    optimizer = pbt()
    first = optimizer.ask(10)
    assert first[0] == Proposal(X0) and [proposal.parent for proposal in first] == [None] * 4
    assert optimizer.ask(10) == [], "the generation is waited for"
    for number, objective in ((4, 0.1), (2, 0.3), (3, 0.4)):
        optimizer.tell(outcome(number, first[number - 1], objective))
        assert optimizer.ask(1) == []
    optimizer.tell(outcome(1, first[0], 0.2))
    second = optimizer.ask(10)
    assert [proposal.parent for proposal in second] == [1, 2, 4, 4]
    assert [proposal.point for proposal in second[:2]] == [first[0].point, first[1].point]
    assert second[3].point == first[3].point
    clone, parent = second[2].point, first[3].point
    assert clone[:2] == parent[:2] and clone != parent, "rank and alpha stay, something else does not"


@pytest.mark.parametrize(
    ("budget", "settings"), [(4, {}), (8, {"intervals": 2}), (11, {"population": 4}), (3, {"population": 3})]
)
def test_the_budget_is_exact(budget: int, settings: dict[str, int]) -> None:
    """Whole trainings: each proposal of a first interval has exactly as many generations behind it."""
    optimizer = pbt(budget=budget, **settings)
    proposals = drive(optimizer, lambda number, proposal: outcome(number, proposal, rate(proposal)))
    assert len(proposals) == budget * optimizer.intervals
    assert sum(proposal.parent is None for proposal in proposals) == budget
    ages: list[int] = []
    for proposal in proposals:
        ages.append(1 if proposal.parent is None else ages[proposal.parent - 1] + 1)
    assert all(ages.count(age) == budget for age in range(1, optimizer.intervals + 1))
    for proposal in proposals:
        SPACE.decode(proposal.point)  # within bounds, and whole


def test_asked_and_told_the_same_it_proposes_the_same() -> None:
    """Of the same seed, however many are asked for at once."""

    def walk(seed: int, count: int) -> list[Proposal]:
        return drive(pbt(seed=seed, budget=8), lambda n, p: outcome(n, p, rate(p)), count)

    assert walk(0, 3) == walk(0, 1) == walk(0, 99) != walk(1, 3)


def test_what_has_failed_or_was_stopped_follows_the_best() -> None:
    optimizer = pbt()
    first = optimizer.ask(4)
    optimizer.tell(outcome(1, first[0]))
    optimizer.tell(Outcome(2, first[1].point, "stopped", 0.0, epoch=1))
    optimizer.tell(Outcome(3, first[2].point, "ok", 0.1, constraints=(1.0,)))
    optimizer.tell(outcome(4, first[3], 0.2))
    assert [proposal.parent for proposal in optimizer.ask(4)] == [4, 4, 3, 4]


def test_what_was_stopped_is_the_worst() -> None:
    optimizer = pbt()
    first = optimizer.ask(4)
    optimizer.tell(Outcome(1, first[0].point, "stopped", 0.0, epoch=1))
    for number, objective in ((2, 0.1), (3, 0.2), (4, 0.3)):
        optimizer.tell(outcome(number, first[number - 1], objective))
    assert [proposal.parent for proposal in optimizer.ask(4)] == [2, 2, 3, 4]


def test_where_all_have_failed_others_begin() -> None:
    proposals = drive(pbt(), outcome)
    assert len(proposals) == 16 and {proposal.parent for proposal in proposals} == {None}
    assert len({proposal.point for proposal in proposals}) == 16


@pytest.mark.parametrize("seed", range(5))
def test_a_clone_differs_from_its_parent(seed: int) -> None:
    """Also where the one value that may change stands at its bound, and factor after factor points outwards."""
    space = Space({"lora_rank": Variable(int=(1, 9)), "lora_dropout": Variable(choice=(0, 0.1))})
    optimizer = pbt(space=space, x0=[(2.0, 1.0)] * 4, budget=4, seed=seed, resample=0.0)
    proposals = drive(optimizer, lambda number, proposal: outcome(number, proposal, 1.0))
    clones = [proposal for number, proposal in enumerate(proposals) if proposal.parent not in (None, number - 3)]
    assert len(clones) == 3
    assert all(clone.point != proposals[(clone.parent or 0) - 1].point for clone in clones)


@pytest.mark.parametrize(
    ("variable", "coordinate", "factor", "expected"),
    [
        (Variable(log10=(-5, -1)), -3.0, 1.2, -3.0 + math.log10(1.2)),
        (Variable(log10=(-5, -1)), -1.05, 1.2, -1.0),
        (Variable(float=(0, 0.1)), 0.05, 0.8, 0.04),
        (Variable(float=(0, 0.1)), 0.09, 1.2, 0.1),
        (Variable(int=(0, 20)), 2.0, 1.2, 3.0),
        (Variable(int=(0, 20)), 10.0, 0.8, 8.0),
        (Variable(int=(0, 20)), 0.0, 0.8, 0.0),
        (Variable(choice=(0, 0.1, 0.2)), 2.0, 0.8, 1.0),
        (Variable(choice=(0, 0.1, 0.2)), 3.0, 1.2, 3.0),
    ],
)
def test_perturbed(variable: Variable, coordinate: float, factor: float, expected: float) -> None:
    assert perturbed(variable, coordinate, factor) == pytest.approx(expected, abs=1e-12)
    variable.decode(perturbed(variable, coordinate, factor))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"population": 5}, "--set population: exceeds the budget 4, got 5"),
        ({"population": 1}, "--set population: must be at least 2, got 1"),
        ({"intervals": 1}, "--set intervals: must be at least 2, got 1"),
        ({"quantile": 0.6}, "--set quantile: must be above 0 and at most 0.5, got 0.6"),
        ({"grow": 1.0}, "--set grow: must be above 1, got 1.0"),
        ({"shrink": 1.0}, "--set shrink: must be above 0 and below 1, got 1.0"),
        ({"resample": 1.1}, "--set resample: must be from 0 to 1, got 1.1"),
        ({"space": Space({"lora_rank": Variable(int=(1, 9))}), "x0": []}, "space: pbt needs a variable that may"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        pbt(**settings)
    assert str(error.value).startswith(sentence) and len(error.value.messages) == 1


def test_a_population_on_the_toy(toy: Callable[..., Path], tmp_path: Path) -> None:
    """The real blackbox, and the schedule of the best."""
    experiment = read_experiment(toy().with_suffix(".yaml"))
    store = Store(tmp_path / "evals")
    blackbox = Blackbox(experiment, store, tmp_path / "preflight.json")
    space, keys = experiment.space, [ROOT]
    best = (math.inf, "")

    def judge(number: int, proposal: Proposal) -> Outcome:
        nonlocal best
        parent = keys[proposal.parent or 0]
        hyperparameters = space.decode(proposal.point)
        candidate = blackbox.candidate(
            hyperparameters, proposal.point, experiment.fidelity("epochs_fraction=0.25"), parent
        )
        blackbox.evaluate([candidate], lambda *_: None)
        keys.append(candidate.key)
        result = store.evaluation(candidate.key).result()
        assert result is not None
        if result.status == "failed":
            return outcome(number, proposal)
        best = min(best, (result.metrics["eval_loss"], candidate.key))
        return outcome(number, proposal, result.metrics["eval_loss"])

    start: Point = (3.0, 16.0, 3.0, -4.5)
    optimizer = PBT(space=space, x0=[start], budget=16, seed=0, population=8)
    proposals = drive(optimizer, judge, count=1)
    assert len(proposals) == 64
    chain = lineage(store, best[1])
    assert len(chain) == 4 and chain[0].parent == ROOT
    assert len({result.hyperparameters["lora_rank"] for result in chain}) == 1
    assert all(later.metrics["eval_loss"] < before.metrics["eval_loss"] for before, later in pairwise(chain))
    rates = " > ".join(f"{result.hyperparameters['learning_rate']:.4g}" for result in chain)
    assert f"learning_rate {rates}" in (schedule(store, best[1]) or "")
    assert schedule(store, keys[1]) is None

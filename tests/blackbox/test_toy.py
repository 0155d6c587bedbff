"""The closed form: its fidelities, its keys, and what `python -m blackbox.eval` makes of them."""

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bbo.experiment import read_experiment
from bbo.runlog import RunLog
from bbo.store import Result, Store, key_of
from blackbox.block import Blackbox
from blackbox.recipe import RECIPE
from blackbox.toy import ToyTraining
from tests.runs import SURROGATE_YAML

Toy = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]

POINT = (3.0, 16.0, 3.0, -3.5)


@pytest.fixture
def evaluate(toy: Toy, tmp_path: Path) -> Callable[..., Result]:
    """The result of POINT at a fidelity, in a store of the test's."""
    experiment = read_experiment(toy(in_yaml=SURROGATE_YAML).with_suffix(".yaml"))
    blackbox = Blackbox(experiment, Store(tmp_path / "evals"), tmp_path / "preflight.json")

    def result(**fidelity: float) -> Result:
        told: list[Result] = []
        candidate = blackbox.candidate(experiment.space.decode(POINT), POINT, fidelity)
        blackbox.evaluate([candidate], lambda _, result, source: told.append(result))
        return told[0]

    return result


def test_a_fidelity_gives_another_value_and_key(evaluate: Callable[..., Result]) -> None:
    full, short, few = evaluate(), evaluate(epochs_fraction=0.5), evaluate(train_fraction=0.25)
    training = ToyTraining.model_validate({**full.hyperparameters, "num_train_epochs": 4})
    older = {"recipe": RECIPE, "model": "toy", "training": training.determinants()}
    assert full.key == key_of(older), "a store from before there were fidelities would be lost"
    assert len({full.key, short.key, few.key}) == 3
    assert short.metrics["eval_loss"] > full.metrics["eval_loss"]
    assert few.metrics["eval_loss"] == pytest.approx(full.metrics["eval_loss"] + 0.075)
    assert (full.fidelity, short.fidelity) == ({}, {"epochs_fraction": 0.5})


def test_four_intervals_are_one_training(toy: Toy, command: Command, tmp_path: Path) -> None:
    """In a process each, as an optimizer calls; a worse rate on the way is seen at the end; a stored one is known."""
    toy(in_yaml={"seed: 0}": "seed: 0, noise: 0}"})

    def end(*exponents: float) -> float:
        parent, answer = "-", ""
        for exponent in exponents:
            (tmp_path / "points").write_text(f"3 16 3 {exponent}\n")
            (tmp_path / "parents").write_text(f"{parent}\n")
            part = ["--fidelity", "epochs_fraction=0.25", "--parents", "parents"]
            done = command("blackbox", "params/toy.yaml", "points", *part)
            assert done.returncode == 0, done.stderr
            answer, parent = done.stdout, RunLog(tmp_path / "runs/toy/log.jsonl").asks[-1].key
        last.append(parent)
        return float(answer.split()[0])

    last: list[str] = []
    (tmp_path / "points").write_text("3 16 3 -3.5\n")
    whole = float(command("blackbox", "params/toy.yaml", "points").stdout.split()[0])
    assert end(-3.5, -3.5, -3.5, -3.5) == pytest.approx(whole, rel=1e-12)
    assert end(-3.5, -3.5, -4.5, -3.5) > whole + 0.01
    point = f"runs/toy/evals/{last[0]}/point.txt"
    stored = command("blackbox.eval", point)
    assert "from the store" in stored.stdout and "fidelity         epochs_fraction 0.25" in stored.stdout
    again = command("blackbox.eval", point, "--again")
    assert again.stderr == f"{point}: an interval goes on from another's state and is not trained again alone\n"
    assert math.isinf(end(-1)), "it diverges"
    (tmp_path / "parents").write_text(f"{last[-1]}\n")
    refused = command("blackbox", "params/toy.yaml", "points", "--parents", "parents")
    assert refused.stderr == f"--parents: {last[-1]}: no captured state in runs/toy/evals\n"


def test_eval_at_a_fidelity(toy: Toy, command: Command, tmp_path: Path) -> None:
    toy(in_yaml=SURROGATE_YAML)
    (tmp_path / "x.txt").write_text("3 16 3 -3.5")
    low = command("blackbox.eval", "x.txt", "-e", "params/toy.yaml", "--fidelity", "low")
    assert "fidelity         epochs_fraction 0.5  train_fraction 0.25\n" in low.stdout, low.stderr
    full = command("blackbox.eval", "x.txt", "-e", "params/toy.yaml")
    assert "\nfidelity " not in full.stdout
    for file in (tmp_path / "runs/toy/evals").glob("*/result.json"):
        again = command("blackbox.eval", str(file.parent / "point.txt"))
        assert "from the store" in again.stdout
        assert ("\nfidelity " in again.stdout) == bool(json.loads(file.read_text())["fidelity"])
    wrong = command("blackbox.eval", "x.txt", "-e", "params/toy.yaml", "--fidelity", "none")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "params/toy.yaml:11: fidelity: no fidelity 'none', there are full, low\n"


def test_native_calls_at_a_fidelity(toy: Toy, command: Command, tmp_path: Path) -> None:
    """As NOMAD calls: the point file last."""
    toy(in_yaml=SURROGATE_YAML)
    (tmp_path / "points").write_text("3 16 3 -3.5\n3 17 3 -3.5\n")
    low = command("blackbox", "params/toy.yaml", "--fidelity", "low", "points")
    full = command("blackbox", "params/toy.yaml", "points")
    assert len(low.stdout.splitlines()) == len(full.stdout.splitlines()) == 2, low.stderr
    assert low.stdout != full.stdout == command("blackbox", "params/toy.yaml", "points", "--fidelity", "full").stdout
    wrong = command("blackbox", "params/toy.yaml", "--fidelity", "none", "points")
    assert (wrong.returncode, wrong.stdout, len(wrong.stderr.splitlines())) == (1, "", 1)

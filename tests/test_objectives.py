"""The quickstart under a constraint and with two objectives, on the embedded model, through NOMAD and Optuna."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from bbo.experiment import read_experiment
from bbo.front import front_of
from bbo.runlog import RunLog
from tests.conftest import ROOT, python
from tests.runs import walk

TINY = ROOT / "blackbox" / "tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both pairs on few rows, so that a training takes about a second."""
    folder = tmp_path_factory.mktemp("objectives")
    (folder / "params").mkdir()
    for name in ("quickstart_constrained", "quickstart_front"):
        document = yaml.safe_load((ROOT / f"params/{name}.yaml").read_text())
        document["model"]["path"] = str(TINY / "model")
        document["data"]["train"] = {"path": str(TINY / "train.jsonl"), "split": "train[:48]"}
        document["data"]["valid"] = {"path": str(TINY / "valid.jsonl"), "split": "train[:16]"}
        (folder / "params" / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        text = (ROOT / f"params/{name}.txt").read_text()
        (folder / "params" / f"{name}.txt").write_text(text.replace("BB_MAX_BLOCK_SIZE 4", "BB_MAX_BLOCK_SIZE 8"))
    return folder


def run(folder: Path, *words: str) -> str:
    """What a run says; all runs have one store."""
    done = subprocess.run(
        python("bbo.cli", "run", *words, "--store", "evals"),
        cwd=folder, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def front(folder: Path, name: str, run: str) -> list[tuple[float, ...]]:
    experiment = read_experiment(folder / "params" / f"{name}.yaml")
    return [answer.values or () for _, answer in front_of(experiment, RunLog(folder / "runs" / run / "log.jsonl"))]


@pytest.mark.parametrize(
    ("optimizer", "words"), [("nomad", ()), ("tpe", ("--set", "n_startup_trials=4"))], ids=["nomad", "tpe"]
)
def test_the_constrained_variant_ends_feasible(folder: Path, optimizer: str, words: tuple[str, ...]) -> None:
    name, here = "quickstart_constrained", f"constrained-{optimizer}"
    words = (f"params/{name}.txt", "--optimizer", optimizer, "--budget", "8", "--run", here, *words)
    said = run(folder, *words)
    assert "[1/8] #1 eval_loss" in said
    assert re.search(r"violated by 20480\)  best none feasible yet  lora_rank 8 ", said), "X0 has rank 8"
    ((_, beyond),) = front(folder, name, here)
    assert beyond <= 0
    assert f"trainable_parameters <= 20480: {20480 + beyond:.0f}   (all hold)" in said
    told = walk(folder / "runs" / here)
    assert len([values for _, _, values in told if values]) == 8
    assert "replaying 8 of 8" in run(folder, *words)
    assert walk(folder / "runs" / here) == told


@pytest.mark.parametrize(
    ("optimizer", "words"), [("nomad", ()), ("nsgaii", ("--set", "population_size=4"))], ids=["nomad", "nsgaii"]
)
def test_the_variant_of_two_objectives_gives_a_front(folder: Path, optimizer: str, words: tuple[str, ...]) -> None:
    name, here = "quickstart_front", f"front-{optimizer}"
    words = (f"params/{name}.txt", "--optimizer", optimizer, "--budget", "9", "--run", here, *words)
    said = run(folder, *words)
    found = front(folder, name, here)
    assert len(found) >= 2
    assert f"Pareto front          {len(found)} evaluations, by eval_loss and trainable_parameters" in said
    for loss, size in found:
        assert f"eval_loss {loss:.6g}  trainable_parameters {size:.0f}   lora_rank {size / 5120:.0f} " in said
    told = walk(folder / "runs" / here)
    assert len([values for _, _, values in told if values]) == 9
    assert f"of the front in {Path('evals')}/*/adapter" in said
    assert "replaying 9 of 9" in run(folder, *words)
    assert walk(folder / "runs" / here) == told

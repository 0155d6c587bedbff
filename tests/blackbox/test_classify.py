"""The shipped classification pairs on random models and a small CSV; one of them as a user starts it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bbo.experiment import read_experiment
from bbo.pair import disagreements
from bbo.problem import read_problem
from bbo.run import Run
from tests.blackbox.conftest import results, write_csv
from tests.conftest import ROOT
from tests.runs import walk

NAMES = ("classify", "classify_mistral", "yelp")


@pytest.fixture
def tiny(tmp_path: Path, small_model: Path, tokenizer_folder: Path) -> Callable[[str], Path]:
    """Write a shipped pair with another model, data and budget, nothing else."""

    def write(name: str) -> Path:
        folder = tmp_path / "params"
        folder.mkdir(exist_ok=True)
        write_csv(folder / "train.csv", 60)
        document: dict[str, Any] = yaml.safe_load((ROOT / "params" / f"{name}.yaml").read_text())
        document["model"] = {"path": str(small_model if name != "yelp" else bert(tmp_path, tokenizer_folder))}
        document["data"] |= {"train": "train.csv", "valid": 0.3, "max_length": 48}
        if name == "yelp":
            document["data"] |= {"text": "Response", "label": "target"}
        document["resources"] = {"cpus_per_job": 1}
        (folder / f"{name}.yaml").write_text(json.dumps(document, indent=1))
        text = (ROOT / "params" / f"{name}.txt").read_text().replace("MAX_BB_EVAL       50", "MAX_BB_EVAL 2")
        (folder / f"{name}.txt").write_text(text.replace("BLOCK_SIZE 4", "BLOCK_SIZE 2"))
        return folder / f"{name}.txt"

    return write


def bert(folder: Path, tokenizer_folder: Path) -> Path:
    import torch  # noqa: PLC0415 - heavy
    from transformers import BertConfig, BertModel  # noqa: PLC0415 - heavy

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    shutil.copytree(tokenizer_folder, folder / "bert")
    BertModel(config).save_pretrained(folder / "bert")
    return folder / "bert"


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", NAMES)
def test_a_pairs_first_point_and_its_corners_train(
    name: str, tiny: Callable[[str], Path], write_job: Callable[..., Path]
) -> None:
    """What the preflight says of it: every variable changes something."""
    from blackbox import checks, train  # noqa: PLC0415 - heavy

    file = tiny(name)
    problem, experiment = read_problem(file), read_experiment(file.with_suffix(".yaml"))
    assert disagreements(problem, experiment) == []
    checks.quick(experiment)
    report = checks.full(experiment)
    assert set(report["variables_that_change_the_training"]) == set(experiment.space.free)
    points = [problem.x0[0], *(end for _, ends in experiment.space.ends() for end in ends)][:4]
    job = write_job(file.with_suffix(".yaml"), *map(experiment.space.decode, points))
    train.run(job)
    for result in results(job):
        assert result.status == "ok", result.reason
        assert 0 <= result.metrics["accuracy"] <= 1
        assert all(output.metric in result.metrics for output in experiment.outputs)
        assert name == "yelp" or result.hyperparameters["lora_alpha"] == 2 * result.hyperparameters["lora_rank"]


def test_classify_as_a_user_starts_it(
    tmp_path: Path, tiny: Callable[[str], Path], command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    tiny("classify_mistral")
    done = command("bbo.nomad", "params/classify_mistral.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "runs/classify_mistral")
    told: list[Any] = [values for _, _, values in walk(run.folder) if values]
    assert len(told) == 2 and all(-1 <= accuracy <= 0 < loss for accuracy, loss in told)
    base = run.base_score()
    assert base is not None and set(base) == {"eval_loss", "accuracy"}

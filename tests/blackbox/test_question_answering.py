"""The shipped SQuAD pairs from end to end, on a small random BLOOM and a few questions: search, scores, checkpoints."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from bbo.runlog import RunLog
from bbo.store import Store
from tests.blackbox.squad_data import questions, write_squad
from tests.conftest import ROOT, python

NEEDED = {"squad": "model", "squad_lora": "adapter"}
"""What is kept of an evaluation."""


@pytest.fixture
def pair(tmp_path: Path, small_bloom: Path) -> Path:
    """The pairs on 8 and 4 questions, 1 epoch, answers of 4 tokens; the model's path is the environment's."""
    (tmp_path / "params").mkdir()
    for name in NEEDED:
        text = (ROOT / "params" / f"{name}.txt").read_text().replace("BLOCK_SIZE 4", "BLOCK_SIZE 2")
        yaml = (ROOT / "params" / f"{name}.yaml").read_text()
        for old, new in (
            ("num_train_epochs: 5", "num_train_epochs: 1"),
            ("max_length: 512", "max_length: 200, max_new_tokens: 4"),
            ("resources: {", "resources: {cpus_per_job: 1, "),
        ):
            assert old in yaml
            yaml = yaml.replace(old, new)
        (tmp_path / "params" / f"{name}.txt").write_text(text)
        (tmp_path / "params" / f"{name}.yaml").write_text(yaml)
    write_squad(tmp_path / "train-v1.1.json", questions(8))
    write_squad(tmp_path / "dev-v1.1.json", questions(4, first=40))
    return tmp_path


@pytest.mark.parametrize("name", NEEDED)
def test_a_search_trains_scores_and_keeps(name: str, pair: Path, small_bloom: Path) -> None:
    command = ["run", f"params/{name}.txt", "--optimizer", "grid", "--budget", "2", "--run", str(pair / name)]
    environment = os.environ | {"SQUAD": str(pair), "SQUAD_MODEL": str(small_bloom), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        python("bbo.cli", *command), cwd=pair, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log, store = RunLog(pair / name / "log.jsonl"), Store(pair / name / "evals")
    values = [log.answers[ask.number].values for ask in log.driven]
    assert len(values) == 2
    for ask, found in zip(log.driven, values, strict=True):
        evaluation = store.evaluation(ask.key)
        result = evaluation.result()
        assert result is not None and result.status == "ok" and found is not None
        score = json.loads(next(evaluation.scores.glob("qa-*.json")).read_text())
        loss, exact_match, f1, seconds = found
        assert (loss, seconds) == (result.metrics["eval_loss"], result.metrics["train_runtime"])
        assert {"exact_match": exact_match, "f1": f1} == score["metrics"] and score["count"] == 4
    kept = [folder for ask in log.driven if (folder := store.evaluation(ask.key).weights) is not None]
    assert [folder.name for folder in kept] == [NEEDED[name]] * (1 if name == "squad" else 2)
    base = json.loads((pair / name / "preflight.json").read_text())["base"]
    assert set(base) == {"eval_loss", "exact_match", "f1"}

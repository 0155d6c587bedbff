"""Benchmarks among the outputs of a run: real NOMAD, real training, lm-eval's MMLU on the adapters."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bbo.run import Run
from bbo.store import Score, Store
from tests.blackbox.scores.rows import write_mmlu
from tests.conftest import python
from tests.runs import results, walk
from tests.test_quickstart import write_pair

SCORES = {"data_dir": "../data", "tasks": {"mmlu_anatomy": {"limit": 3}}}


def change(folder: Path, outputs: list[str], kinds: str, **sections: Any) -> None:
    """Write other outputs into the pair, and other sections."""
    file = folder / "params/quickstart.yaml"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"outputs": outputs} | sections))
    text = folder / "params/quickstart.txt"
    lines = text.read_text().splitlines(keepends=True)
    text.write_text("".join(f"BB_OUTPUT_TYPE {kinds}\n" if line.startswith("BB_OUTPUT") else line for line in lines))


def nomad(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = python("bbo.nomad", "params/quickstart.txt", *options)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that maximizes MMLU's anatomy, three questions of it."""
    folder = tmp_path_factory.mktemp("scored")
    write_pair(folder / "params", budget=3)
    write_mmlu(folder / "data", anatomy=6, astronomy=4)
    resources = {"cpus_per_job": 1, "keep": "all"}
    recorded = ["eval_loss", "train_loss", "eval_runtime", "train_runtime", "peak_gib", "trainable_parameters"]
    recorded += ["gpu_seconds"]
    kinds = " ".join(["OBJ", *["EXTRA_O"] * len(recorded)])
    change(folder, ["-mmlu_anatomy", *recorded], kinds, scores=SCORES, resources=resources)
    done = nomad(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "said").write_text(done.stdout)
    return folder


def scores(folder: Path, task: str, limit: int | None) -> list[Score]:
    found = []
    for evaluation in Store(folder / "runs/quickstart/evals"):
        for file in evaluation.scores.iterdir():
            score = evaluation.score(file.stem)
            assert score is not None
            if (score.about["task"], score.about["limit"]) == (task, limit):
                found.append(score)
    return found


def test_nomad_maximizes_a_benchmark(scored: Path) -> None:
    told = [values for _, _, values in walk(scored / "runs/quickstart") if values]
    by_evaluation = scores(scored, "mmlu_anatomy", 3)
    assert sorted(-score.metrics["acc"] for score in by_evaluation) == sorted(values[0] for values in told)
    assert all(score.count == 3 and score.about["num_fewshot"] == 5 for score in by_evaluation)
    for _, *losses, eval_seconds, train_seconds, peak_gib, parameters, gpu_seconds in told:
        assert all(0 < loss < 20 for loss in losses) and 0 < eval_seconds < train_seconds + 60
        assert 0.1 < peak_gib < 20 and parameters % 10 == 0 and gpu_seconds >= 0
    base = Run(scored / "runs/quickstart").base_score()
    assert base is not None and 0 <= base["mmlu_anatomy"] <= 1 and base["eval_loss"] > 0
    said = (scored / "said").read_text()
    best = max(-values[0] for values in told)
    assert f"best score            {best:.6g}   (mmlu_anatomy" in said, "its sign is restored"
    assert f"base score            {base['mmlu_anatomy']:.6g}\n" in said


def test_a_new_output_costs_no_training_and_a_part_never_answers_for_the_whole(scored: Path) -> None:
    before = results(scored / "runs/quickstart")
    whole = {"data_dir": "../data", "tasks": {}}
    change(scored, ["-mmlu_anatomy", "eval_loss", "mmlu_astronomy"], "OBJ EXTRA_O EXTRA_O", scores=whole)
    refused = nomad(scored)
    assert refused.returncode == 1 and "--store runs/quickstart/evals to train nothing twice" in refused.stderr
    done = nomad(scored, "--run", "more", "--store", "runs/quickstart/evals")
    assert done.returncode == 0, done.stdout + done.stderr
    # The whole benchmark as objective may lead to other points.
    assert before.items() <= results(scored / "runs/quickstart").items()
    assert [score.count for score in scores(scored, "mmlu_anatomy", None)][:2] == [6, 6]
    assert len(scores(scored, "mmlu_astronomy", None)) >= 2
    assert len(scores(scored, "mmlu_anatomy", 3)) == 3, "the parts were not scored again"
    log = (scored / "runs/more/log.jsonl").read_text()
    assert '"source": "store"' in log and all(len(v) == 3 for _, _, v in walk(scored / "runs/more") if v)


@pytest.mark.parametrize(
    "outputs, scores, sentence",
    [
        (["-mmlu_anatomie"], SCORES, "did you mean mmlu_anatomy"),
        (["-mmlu_virology"], SCORES, "scores.data_dir: no "),
        (["-mmlu_anatomy.f1"], SCORES, "mmlu_anatomy has no metric f1, it has acc"),
        (["eval_los"], {}, "eval_los cannot be measured (did you mean eval_loss?)"),
        (["humaneval"], {"data_dir": "../data"}, "scores.allow_code_execution"),
        (["-mmlu_anatomy"], {"data_dir": "../data", "tasks": {"mmlu_anatomy": {"temperature": 1}}}, "humaneval's"),
    ],
    ids=["task", "data", "metric", "typo", "unsafe", "setting"],
)
def test_what_cannot_be_scored_is_said_before_any_training(
    tmp_path: Path, outputs: list[str], scores: dict[str, Any], sentence: str
) -> None:
    write_pair(tmp_path / "params", budget=2)
    write_mmlu(tmp_path / "data", anatomy=2)
    change(tmp_path, outputs, "OBJ", scores=scores)
    done = nomad(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "quickstart.yaml:" in done.stderr and sentence in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()

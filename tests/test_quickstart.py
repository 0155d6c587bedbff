"""The whole path on the embedded model: real NOMAD, real `accelerate launch`, real LoRA; killed, replayed, refused."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bbo.points import format_point
from bbo.run import Run
from bbo.store import Store
from tests.conftest import ROOT, python
from tests.runs import kind, ours, results, start, walk

Command = Callable[..., subprocess.CompletedProcess[str]]

TINY = ROOT / "blackbox" / "tiny"


def write_pair(folder: Path, budget: int = 5, rows: int = 48, **data: object) -> Path:
    """The quickstart pair on few rows, so that a training takes about a second."""
    folder.mkdir(exist_ok=True)
    document = yaml.safe_load((ROOT / "params/quickstart.yaml").read_text())
    document["model"]["path"] = str(TINY / "model")
    document["data"] = {
        "train": {"path": str(TINY / "train.jsonl"), "split": f"train[:{rows}]"},
        "valid": {"path": str(TINY / "valid.jsonl"), "split": "train[:16]"},
        "prompt": "alpaca",
        "max_length": 192,
        **data,
    }
    (folder / "quickstart.yaml").write_text(json.dumps(document, indent=1))  # JSON is YAML
    text = (ROOT / "params/quickstart.txt").read_text()
    text = text.replace("MAX_BB_EVAL       16", f"MAX_BB_EVAL {budget}").replace("BLOCK_SIZE 4", "BLOCK_SIZE 2")
    (folder / "quickstart.txt").write_text(text)
    return folder / "quickstart.txt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that nobody disturbed; its folder."""
    folder = tmp_path_factory.mktemp("whole")
    write_pair(folder / "params")
    done = subprocess.run(
        python("bbo.nomad", "params/quickstart.txt"), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "said").write_text(done.stdout)
    return folder


def test_a_run_leaves_all_that_is_promised(whole: Path) -> None:
    run = Run(whole / "runs/quickstart")
    said = (whole / "said").read_text()
    assert "(5 trained, 0 from the store, 0 failed)" in said
    base = run.base_score()
    assert base is not None
    assert f"base score            {base['eval_loss']:.6g}" in said
    stored = [(e, e.result()) for e in Store(run.evals)]
    assert len(stored) == 5
    for evaluation, result in stored:
        assert result is not None
        assert result.status == "ok"
        assert result.metrics["eval_loss"] < base["eval_loss"]
        assert set(result.phases) == {"start", "load", "train", "score"}
        assert 0 < result.seconds < 120
        applied = json.loads(evaluation.applied_file.read_text())
        assert {name: applied[name] for name in ("lora_rank", "lora_alpha", "lora_dropout")} == {
            name: result.hyperparameters[name] for name in ("lora_rank", "lora_alpha", "lora_dropout")
        }
        assert "eval_loss" in evaluation.progress_file.read_text()
        assert evaluation.log_file.is_file()
        assert result.versions["torch"]
    kept = [result.metrics["eval_loss"] for e, result in stored if result and e.adapter.is_dir()]
    assert sorted(kept) == sorted(r.metrics["eval_loss"] for _, r in stored if r)[:3]


def test_a_cached_run_replays_without_training(whole: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        python("bbo.nomad", "params/quickstart.txt"), cwd=whole, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 15
    assert "replaying 5 of 5 evaluations" in done.stdout


def test_a_cached_block_is_answered_fast_and_without_torch(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    points = [point for point, _, _ in walk(whole / "runs/quickstart")]
    block = tmp_path / "block"
    block.write_text("".join(format_point(point) + "\n" for point in points))  # type: ignore[arg-type]
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    fastest = 100.0
    for _ in range(3):  # other tests may keep the cores busy
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "blackbox", "params/quickstart.yaml", str(block)],
            cwd=tmp_path / "copy", env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        fastest = min(fastest, time.monotonic() - began)
    told = [values for _, _, values in walk(whole / "runs/quickstart")]
    assert [tuple(map(float, line.split())) for line in done.stdout.splitlines()] == told
    assert fastest < 1


@pytest.mark.parametrize("victim", ["trainer", "all"])
def test_kill_9_with_real_training(whole: Path, tmp_path: Path, victim: str) -> None:
    shutil.copytree(whole / "params", tmp_path / "params")
    draw = random.Random(victim)
    trained: dict[str, float] = {}
    for _ in range(2):
        process = start(tmp_path, "params/quickstart.txt")
        limit = time.monotonic() + 90
        while not any(kind(p) == "trainer" for p in ours(tmp_path)) and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.05)
        time.sleep(draw.uniform(0.0, 8.0))
        now = results(tmp_path / "runs/quickstart")
        assert trained.items() <= now.items(), "a finished evaluation was trained again"
        for target in [p for p in ours(tmp_path) if victim == "all" or kind(p) == victim]:
            target.kill()
        trained = now
        if victim == "trainer":
            assert process.wait(200) == 0
            break
        process.wait(20)
        limit = time.monotonic() + 15  # a launcher that is still importing sees the cut lifeline a little later
        while ours(tmp_path):
            assert time.monotonic() < limit, "orphans"
            time.sleep(0.05)
    done = subprocess.run(
        python("bbo.nomad", "params/quickstart.txt"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert trained.items() <= results(tmp_path / "runs/quickstart").items()

    def points_and_losses(folder: Path) -> list[tuple[object, object]]:
        return [(point, values) for point, _, values in walk(folder / "runs/quickstart")]

    assert points_and_losses(tmp_path) == points_and_losses(whole)


def test_a_log_has_a_line_for_each_epoch(whole: Path) -> None:
    logs = list(whole.glob("runs/quickstart/evals/*/train.log"))
    assert logs and all(f"{log.parent.name}: epoch 1, step " in log.read_text() for log in logs)


def test_a_leaking_split_is_refused(command: Command, tmp_path: Path) -> None:
    leak = {"path": str(TINY / "train.jsonl"), "split": "train[40:56]"}
    write_pair(tmp_path / "params", valid=leak)
    done = command("bbo.nomad", "params/quickstart.txt")
    assert done.returncode == 1
    assert "8 of 16 validation rows are training rows too" in done.stderr
    assert re.search(r"quickstart.yaml:\d+: data.valid", done.stderr)
    assert not (tmp_path / "runs").exists()
    write_pair(tmp_path / "params", valid=leak, allow_leak=True)
    allowed = command("bbo.cli", "check", "params/quickstart.txt")
    assert allowed.returncode == 0, allowed.stderr
    assert re.search(r"^rows on both sides +8$", allowed.stdout, re.MULTILINE)


def test_an_evaluation_goes_on_from_anothers_state(command: Command, tmp_path: Path) -> None:
    """Two intervals, each half of the epochs and of the schedule, are one training; other parents are refused."""
    write_pair(tmp_path / "params")
    (tmp_path / "points").write_text("3 16 3 -3.5\n")
    evals = tmp_path / "runs/quickstart/evals"

    def answer(*more: str) -> str:
        done = command("blackbox", "params/quickstart.yaml", "points", *more)
        return done.stdout or done.stderr

    def going_on_from(parent: str) -> str:
        (tmp_path / "parents").write_text(parent + "\n")
        return answer("--parents", "parents", "--fidelity", "epochs_fraction=0.5")

    first = going_on_from("-")
    assert first[0].isdigit(), first
    (key,) = (folder.name for folder in evals.iterdir() if (folder / "state.safetensors").is_file())
    second = going_on_from(key)
    assert len(list(evals.glob("*/state.safetensors"))) == 2
    assert float(second.split()[0]) < float(first.split()[0])
    assert second.split()[0] == answer().split()[0]
    assert going_on_from(key) == second  # from the store
    assert going_on_from("0" * 16).startswith("--parents: 0000000000000000: no captured state in ")
    assert going_on_from("x").startswith("parents:1: must be the key of an evaluation or -, got 'x'")


class TestEval:
    """python -m blackbox.eval"""

    def test_from_the_store_and_again(self, command: Command, whole: Path, tmp_path: Path) -> None:
        shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
        key = walk(whole / "runs/quickstart")[0][1]
        folder = f"runs/quickstart/evals/{key}"
        done = command("blackbox.eval", f"{folder}/point.txt")
        assert done.returncode == 0, done.stderr
        assert "from the store" in done.stdout
        assert "learning_rate          0.00031622776601683794" in done.stdout
        before = json.loads((tmp_path / folder / "result.json").read_text())
        again = command("blackbox.eval", f"{folder}/point.txt", "--again")
        assert again.returncode == 0, again.stderr
        after = json.loads((tmp_path / folder / "result.json").read_text())
        assert after["metrics"]["eval_loss"] == before["metrics"]["eval_loss"]
        assert after["started"] > before["finished"]
        assert "NOMAD would read" in again.stdout

    def test_true_values(self, command: Command, tmp_path: Path) -> None:
        write_pair(tmp_path / "params")
        (tmp_path / "x.txt").write_text("lora_rank: 4\nlora_alpha: 7\nlora_dropout: 0\nlearning_rate: 3e-4\n")
        done = command("blackbox.eval", "x.txt", "-e", "params/quickstart.yaml")
        assert done.returncode == 0, done.stderr
        assert "point            2 7 1 -3.52" in done.stdout
        result = json.loads(next((tmp_path / "runs/quickstart/evals").glob("*/result.json")).read_text())
        assert result["hyperparameters"]["learning_rate"] == 3e-4
        assert not (tmp_path / "runs/quickstart/worker.json").exists(), "no process stays behind"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"3 16 3", "x.txt:1: 3 numbers, the experiment has 4"),
            (b"3 16 3 -9", "learning_rate: -9 is outside [-5, -1]"),
            (b"3 16 three -4", "x.txt:1: not a number"),
            (b"\x00\xff\x01", "not a text file"),
            (b"", "no point in it"),
            (None, "No such file"),
            (b"lora_rank: 5\nlora_alpha: 7\nlora_dropout: 0\nlearning_rate: 1e-4\n", "lora_rank: 5 is none of"),
            (b"lora_rank: 4\n", "missing: learning_rate, lora_alpha, lora_dropout"),
            (b"3 16 3 -4\n3 17 3 -4\n", "2 points, this command evaluates one"),
        ],
    )
    def test_bad_points(self, command: Command, tmp_path: Path, content: bytes | None, said: str) -> None:
        write_pair(tmp_path / "params")
        if content is not None:
            (tmp_path / "x.txt").write_bytes(content)
        done = command("blackbox.eval", "x.txt", "-e", "params/quickstart.yaml")
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            (str(TINY / "model"), "/no/such/model", "model.path: no such model folder: /no/such/model"),
            (str(TINY / "model"), "nobody/no-such-model", "hf download nobody/no-such-model"),
            ("valid.jsonl", "invalid.jsonl", "data.valid: no such file"),
            ("q_proj", "z_proj", "training.target_modules: the model has no z_proj"),
            ('"max_length": 192', '"max_length": 20', "the prompt alone fills max_length 20"),
            ('"prompt": "alpaca"', '"prompt": "dolly"', "has no column"),
        ],
    )
    def test_bad_model_and_data(self, command: Command, tmp_path: Path, old: str, new: str, said: str) -> None:
        file = write_pair(tmp_path / "params").with_suffix(".yaml")
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        (tmp_path / "x.txt").write_text("3 16 3 -4")
        done = command("blackbox.eval", "x.txt", "-e", "params/quickstart.yaml", HF_HUB_OFFLINE="1")
        assert done.returncode == 1, done.stdout
        assert said in done.stderr
        assert "params/quickstart.yaml:" in done.stderr
        assert "Traceback" not in done.stderr

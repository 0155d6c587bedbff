"""The benchmarks run, in little: what they measure is theirs to say."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from bbo.experiment import read_experiment
from benchmarks import packing, peer, throughput
from benchmarks.packing import Measured
from blackbox.checks import quick


def test_throughput_on_a_tiny_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # and back to what it was
    assert throughput.main(["--tiny", "--steps", "1", "--json", str(tmp_path / "x.json")]) == 0
    content = json.loads((tmp_path / "x.json").read_text())
    assert [row["setting"] for row in content["rows"]] == ["Trainer + PEFT", "ours, alone", "ours, 4 packed"]
    assert all(row["tokens_per_s"] > 0 and 0 < row["share_of_matmul_rate"] < 1 for row in content["rows"])
    first, *others = (row["losses"] for row in content["rows"])
    assert len(first) == 6 and all(losses == pytest.approx(first, rel=0.05) for losses in others)


def test_numbers_that_cannot_be_true_are_found() -> None:
    row = {"setting": "x", "grad_norm": 0.0, "losses": [1.0, float("nan")]}
    content = {"rows": [row], "check": {"largest_difference": 0.02, "fall": 0.1}}
    assert throughput.untrue(content) == [
        "x: the gradient norm is 0.0",
        "x: a loss is not finite",
        "our step losses differ from the Trainer's by 2.0e-02, while these fall by 1.0e-01",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_throughput_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main([]) == 1
    assert capsys.readouterr().err == "there is no GPU here; --tiny runs a tiny shape on the CPU\n"


def test_packings_points_and_experiments_are_quickstarts(tmp_path: Path) -> None:
    experiment = packing.experiment_in(tmp_path / "x", "packed", 4, {"cpus_per_job": 1})
    quick(experiment)
    assert experiment.training["num_train_epochs"] == 8
    decoded = [experiment.space.decode(point) for point in (*packing.POINTS, *packing.WARM_UP)]
    keys = {json.dumps(each) for each in decoded}
    assert len(keys) == len(decoded), "a point that the warm-up has trained would be answered from the store"
    assert sum(each["lora_dropout"] == 0 for each in decoded[:8]) == 4


def test_packing_runs_every_way_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"trainer": 80.0, "alone": 20.0, "packed_one_process": 8.0, "packed": 10.0}
    ways = []

    def run(folder: Path, *_: object, **__: object) -> Measured:
        ways.append(folder.name)
        return Measured(seconds[folder.name], [1.0, 2.0], {"start": 1.0, "rest": 0.0})

    monkeypatch.setattr(packing, "trainer", run)
    monkeypatch.setattr(packing, "ours", run)
    packing.main([*"--points 2 --repetitions 2 --repetitions-long 1".split(), "--json", str(tmp_path / "x.json")])
    assert ways == [*seconds, *seconds, *seconds]
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["speedup_vs_trainer"] == content["speedup_vs_trainer_long"] == 8.0
    assert (content["speedup_vs_alone"], content["repetitions"], content["repetitions_long"]) == (2.0, 2, 1)


def test_the_peer_trains_and_its_adapter_can_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    experiment = packing.experiment_in(tmp_path / "x", "trainer", 0.5, {})
    content = yaml.safe_load(experiment.path.read_text())
    content["data"]["train"]["split"] = "train[:16]"
    content["data"]["valid"] = {"path": content["data"]["valid"], "split": "train[:10]"}
    experiment.path.write_text(yaml.safe_dump(content, sort_keys=False))
    out = tmp_path / "out"
    peer.main([str(experiment.path), '{"lora_rank": 4, "lora_dropout": 0.1}', "--out", str(out)])
    peers = json.loads((out / "peer.json").read_text())
    assert set(peers["phases"]) == {"start", "load", "train", "score", "save"}
    (loss,) = packing._scored(read_experiment(experiment.path), [out])
    assert loss == pytest.approx(peers["eval_loss"], abs=0.05)  # one batch: but for the Trainer's rounding the same

"""Real launches through `accelerate launch`: one process, two with DDP, two with FSDP; all on the CPU (gloo)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from bbo.errors import InputError
from blackbox import launch as launch_module
from blackbox.launch import launch_command
from tests.blackbox.conftest import results

POINT = {"lora_rank": 4, "learning_rate": 1e-2}
TRAINING = {
    "global_batch_size": 8,
    "per_device_train_batch_size": 2,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 2,
}

FSDP = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "fsdp_config": {"fsdp_version": 2, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"},
    "num_processes": 2,
    "num_machines": 1,
    "machine_rank": 0,
    "main_process_port": 0,
    "mixed_precision": "no",
}

Write = Callable[..., Path]


def launch(job: Path, processes: int, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    command, environment = launch_command(job, processes, ("cpu0", "cpu1"), config)
    environment = os.environ | environment | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, cwd=job.parent, capture_output=True, text=True, check=False, timeout=200
    )


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    def write(**content: Any) -> Path:
        file = tmp_path / "accelerate.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


def test_processes_leave_the_result_unchanged(
    tmp_path: Path, experiment: Write, write_job: Write, write_config: Write
) -> None:
    """40 rows in steps of 8, and 10 validation rows: the second process has a pass without rows in the last one."""
    file = experiment(**TRAINING, per_device_eval_batch_size=4)
    launches = {"one": (1, None), "ddp": (2, None), "fsdp": (2, write_config(**FSDP))}
    metrics, adapters = {}, {}
    for name, (processes, config) in launches.items():
        job = write_job(file, POINT, base_score=True, name=name)
        done = launch(job, processes, config)
        assert done.returncode == 0, done.stderr[-3000:]
        (result,) = results(job)
        assert result.status == "ok", result.reason
        metrics[name] = result.metrics | {"base": json.loads((tmp_path / f"{name}.base.json").read_text())["eval_loss"]}
        adapters[name] = load_file(tmp_path / name / f"{name}0" / "adapter" / "adapter_model.safetensors")
    for name in ("ddp", "fsdp"):
        for metric in ("eval_loss", "train_loss", "base"):
            difference = abs(metrics[name][metric] - metrics["one"][metric])
            print(f"{name} {metric}: {metrics[name][metric]:.7f}, difference {difference:.1e}")
            assert difference < 1e-5
        assert metrics[name]["trainable_parameters"] == metrics["one"]["trainable_parameters"]
        assert adapters[name].keys() == adapters["one"].keys()
        for key, weights in adapters["one"].items():
            assert torch.allclose(adapters[name][key], weights, atol=1e-4), key


def test_all_weights_are_trained_by_two_processes_as_by_one(
    tmp_path: Path, on_cpu: None, experiment: Write, write_job: Write
) -> None:
    from blackbox import train  # noqa: PLC0415 - heavy

    file = experiment(**TRAINING, method="full", target_modules=None, sections={"space": {"seed": {"int": [0, 9]}}})
    jobs = {name: write_job(file, {"learning_rate": 1e-3}, name=name) for name in ("one", "ddp")}
    train.run(jobs["one"])
    done = launch(jobs["ddp"], 2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, ddp = (results(job)[0] for job in jobs.values())
    assert ddp.status == "ok", ddp.reason
    for metric in ("eval_loss", "train_loss", "trainable_parameters"):
        assert ddp.metrics[metric] == pytest.approx(one.metrics[metric], abs=1e-5), metric
    alone, together = (load_file(tmp_path / name / f"{name}0" / "model" / "model.safetensors") for name in jobs)
    assert alone.keys() == together.keys()
    assert all(torch.allclose(together[key], weights, atol=1e-4) for key, weights in alone.items())


def test_an_out_of_memory_process_fails_the_point_and_frees_the_other(
    tmp_path: Path, experiment: Write, write_job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two processes alone runs out of memory: a result is there, and nobody waits for ever."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import torch\n"
        "    def fail(*unused, **others):\n"
        "        raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "    torch.optim.AdamW.step = fail\n"
    )
    job = write_job(experiment(**TRAINING), POINT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = launch(job, 2)
    (result,) = results(job)
    assert result.status == "failed" and str(result.reason).startswith("out of memory"), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("changes", "deepspeed", "sentence"),
    [
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "ds.json"}},
            {"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW", "params": {"weight_decay": 0}}},
            "ds.json: optimizer: DeepSpeed's own optimizer would ignore the hyperparameters",
        ),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "ds.json"}},
            {"scheduler": {"type": "WarmupLR"}},
            "ds.json: scheduler: DeepSpeed's own scheduler would ignore the hyperparameters",
        ),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}}, {}, "DEEPSPEED is not offered"),
        ({"fsdp_config": {"fsdp_version": 1}}, {}, "fsdp_config.fsdp_version: must be 2, got 1"),
    ],
)
def test_what_would_overrule_a_point_is_refused(
    tmp_path: Path, write_config: Write, changes: dict[str, Any], deepspeed: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(deepspeed))
    with pytest.raises(InputError) as error:
        launch_command(tmp_path / "job.json", 2, ("0", "1"), write_config(**FSDP | changes))
    assert sentence in str(error.value)


def test_launch_lines(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    line, environment = launch_command(job, 1, ("cpu0",), None)
    assert line == [sys.executable, "-m", "blackbox.train", str(job)]
    assert environment["CUDA_VISIBLE_DEVICES"] == "" and environment["ACCELERATE_USE_CPU"] == "true"
    line, environment = launch_command(job, 4, ("0", "1", "2", "3"), None)
    assert line[1:3] == ["-m", "accelerate.commands.launch"] and line[-3:] == ["--module", "blackbox.train", str(job)]
    assert "--multi_gpu" in line and line[line.index("--num_processes") + 1] == "4" and "--cpu" not in line
    assert "CUDA_VISIBLE_DEVICES" not in environment


@pytest.mark.parametrize("devices", [("cpu0",), ("cpu0", "cpu1", "cpu2"), ("0",)], ids=",".join)
def test_one_process_starts_as_accelerate_launch_would_start_it(devices: tuple[str, ...], tmp_path: Path) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser  # noqa: PLC0415 - heavy
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env  # noqa: PLC0415 - heavy

    words = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    on_cpu = devices[0].startswith("cpu")
    words += ["--num_cpu_threads_per_process", str(len(devices) if on_cpu else 1), *(["--cpu"] if on_cpu else [])]
    parsed = launch_command_parser().parse_args([*words, "--module", "blackbox.train", "job.json"])
    parsed, *_ = _validate_launch_command(parsed)
    theirs, their_environment = prepare_simple_launcher_cmd_env(parsed)
    ours, environment = launch_command(Path("job.json"), 1, devices, None)
    assert ours == theirs
    set_by_them = {name: value for name, value in their_environment.items() if os.environ.get(name) != value}
    for name in [*launch_module.ONE_PROCESS, "OMP_NUM_THREADS", "ACCELERATE_USE_CPU"]:
        assert environment.get(name, "False").lower() == set_by_them[name].lower(), name
    # What dynamo is not asked for, and Intel's OpenMP, which torch's builds do not use.
    others = set_by_them.keys() - environment.keys() - {"ACCELERATE_USE_CPU"}
    assert all(name.startswith(("ACCELERATE_DYNAMO_", "KMP_")) for name in others), others

"""The command line that starts a trainer: `accelerate launch`, or what it comes to for one process. Knows no torch."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bbo.errors import InputError
from bbo.executors.slots import gpus_of
from blackbox.nodes import our_nodes

ROOT = Path(__file__).resolve().parents[1]


SHARED_CORES = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that spin while they wait take four times as long where other processes want the cores too."""


ONE_PROCESS = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}
"""What `accelerate launch` would set beside devices and threads. It loads torch itself to say so: a second or two."""


def launch_command(
    job_file: Path, processes: int, devices: Sequence[str], accelerate_config: Path | None
) -> tuple[list[str], dict[str, str]]:
    """Arguments of a job's own process and additions to the environment. `devices` are those of one slot.

    Raises InputError, see `launcher`.
    """
    command, environment = launcher(processes, devices, accelerate_config)
    return [*command, "blackbox.train", str(job_file)], environment


def launcher(
    processes: int, devices: Sequence[str], accelerate_config: Path | None
) -> tuple[list[str], dict[str, str]]:
    """The command up to the module that is launched, and additions to the environment.

    With a configuration file of `accelerate config` that file decides about all but job and processes. Raises
    InputError where it asks for what the trainer cannot honour.
    """
    nodes = our_nodes() if processes > 1 else None
    environment = {"PYTHONPATH": python_path(), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    threads = str(1 if gpus_of(devices) else max(1, len(devices) // processes))
    if not gpus_of(devices):
        environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", **SHARED_CORES}
    if processes == 1 and accelerate_config is None:
        return [sys.executable, "-m"], {**environment, **ONE_PROCESS, "OMP_NUM_THREADS": threads}
    if accelerate_config is not None:
        check_accelerate_config(accelerate_config)
        options = ["--config_file", str(accelerate_config), "--num_processes", str(processes)]
        options += [] if nodes is None else nodes.options
    else:
        # --multi_gpu means one process per device also where the device is the CPU; port 0 is any free one, since
        # several jobs may run side by side.
        options = [
            "--num_processes",
            str(processes),
            "--multi_gpu",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
        ]
        options += ["--num_machines", "1", "--main_process_port", "0"] if nodes is None else nodes.options
    if not gpus_of(devices):
        options += ["--num_cpu_threads_per_process", threads]
    # The launcher's module instead of its script: the same program, from this very interpreter.
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    return [*command, *options, "--module"], environment


def check_accelerate_config(file: Path) -> None:
    """Raise InputError where a file of `accelerate config` would take training settings out of the trainer's hands."""
    config = _read(file)
    deepspeed = config.get("deepspeed_config") or {}
    ours = deepspeed.get("deepspeed_config_file")
    if ours is not None:
        refuse_own_optimizer(_read(file.parent / ours), str(file.parent / ours))
    if str(config.get("distributed_type", "NO")) == "DEEPSPEED":
        raise InputError(
            f"{file}: distributed_type: DEEPSPEED is not offered, FSDP (fsdp_version 2) shards a model too"
        )
    if (config.get("fsdp_config") or {}).get("fsdp_version", 2) not in (2, "2"):
        raise InputError(f"{file}: fsdp_config.fsdp_version: must be 2, got {config['fsdp_config']['fsdp_version']!r}")


def refuse_own_optimizer(deepspeed: dict[str, Any], where: str) -> None:
    """A DeepSpeed configuration's own optimizer or scheduler would silently replace what a point proposes."""
    for name in ("optimizer", "scheduler"):
        if name in deepspeed:
            raise InputError(f"{where}: {name}: DeepSpeed's own {name} would ignore the hyperparameters, remove it")


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file}: not a configuration file: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a configuration file: must be a mapping")
    return content


def python_path() -> str:
    """The trainer finds this project also where it is not installed and the working directory is elsewhere."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

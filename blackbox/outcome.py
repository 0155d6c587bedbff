"""How one evaluation ended: the point's own failures told from the machine's, and the Result that is recorded."""

import errno
import resource
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bbo.errors import InputError, MachineError
from bbo.store import Result

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets")

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOENT, errno.EACCES, errno.ESTALE}


class PointFailed(Exception):
    """The point's own failure, seen by every process of the job."""


@dataclass(frozen=True)
class Phases:
    """Seconds of one evaluation: its share of what it had in common with the other points of its job and pack."""

    start: float = 0.0
    load: float = 0.0
    train: float = 0.0
    score: float = 0.0

    def shared(self, count: int) -> "Phases":
        return Phases(*(seconds / count for seconds in vars(self).values()))


@dataclass(frozen=True)
class Ended:
    """What training and scoring gave: metrics, or the reason why there are none."""

    metrics: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    stopped: bool = False
    """Left early, as `reason` says: there is no result, its state is kept."""
    train_seconds: float = 0.0
    score_seconds: float = 0.0
    shared: bool = True
    """Whether all processes of the job ended in the same way, and none waits for another."""


def failed(error: Exception) -> Ended:
    """The end of a point that raised `error`. Raises what is not the point's fault: InputError, MachineError."""
    if isinstance(error, InputError | MachineError):
        raise error
    if isinstance(error, PointFailed):
        return Ended(reason=str(error))
    said = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in said:
        return Ended(reason=f"out of memory: {said}", shared=False)
    disk = isinstance(error, OSError) and error.errno in DISK_TROUBLE
    if disk or "No space left" in said:
        raise MachineError(f"disk: {said}") from error
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in said or "NCCL" in said:
        raise MachineError(f"device: {said}") from error
    return Ended(reason=f"{type(error).__name__}: {said}", shared=False)


def make_result(job: Mapping[str, Any], item: Mapping[str, Any], ended: Ended, phases: Phases, seed: int) -> Result:
    """The record of one entry of a job's evaluations, finished now."""
    now = time.time()
    seconds = sum(vars(phases).values())
    return Result(
        key=item["key"],
        status="ok" if ended.reason is None else "failed",
        metrics=ended.metrics,
        hyperparameters=dict(item["hyperparameters"]),
        point=item["point"],
        experiment=Path(job["experiment"]).stem,
        seconds=seconds,
        phases=dict(vars(phases)),
        gpu_seconds=seconds * job["gpus"],
        started=now - seconds,
        finished=now,
        host=socket.gethostname(),
        slot=job["slot"],
        job=job["id"],
        seed=seed,
        fidelity=dict(item["fidelity"]),
        attempts=item["attempts"],
        reason=ended.reason,
        parent=item.get("parent"),
        versions={name: version(name) for name in LIBRARIES},
    )


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    """Most memory since `reset_peak`: of this process's GPU, or, on a CPU, of the process in all its life."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts it in KiB

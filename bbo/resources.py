"""The YAML's section resources: where jobs run, what one may use, what is kept of it."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from bbo.jobscript import TAKEN, clock, read_option, read_time


class RayOptions(BaseModel):
    """resources.ray: where jobs run under `executor: ray`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = None
    """Of a Ray cluster, `HOST:6379`, or `auto` for the one that this machine belongs to; unset: a Ray of this machine
    that begins and ends with the run."""
    shared_folder: bool = False
    """Whether all nodes see model, data and run folder at the same paths; else files are carried there and back."""


class SlurmOptions(BaseModel):
    """resources.slurm: the jobs under `executor: slurm`, one for each list of points."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: int = Field(4, ge=1)
    """Most jobs at a time."""
    time: str | None = None
    """Of one start of a job, [D-]HH:MM:SS; unset: the partition's."""
    sbatch: tuple[str, ...] = ()
    """More options of sbatch: `partition=gpu`, `exclusive`."""
    setup: tuple[str, ...] = ()
    """Lines of the shell before a job's command: `module load cuda`."""

    @field_validator("time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        text = clock(value) if isinstance(value, int) else value  # YAML reads 12:00:00 as a number to the base of 60
        if isinstance(text, str):
            read_time(text)
        return text

    @field_validator("sbatch")
    @classmethod
    def _sbatch(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            read_option(text, {*TAKEN["slurm"], "cpus-per-task"})
        return value


class Resources(BaseModel):
    """What an evaluation may use, and what is kept of it. No part of it changes a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    executor: Literal["local", "ray", "slurm"] = "local"
    ray: RayOptions = RayOptions()
    slurm: SlurmOptions = SlurmOptions()
    gpus_per_job: int | None = Field(None, ge=0)
    """GPUs, and so processes, of one job; unset: one if the machine has any, else the CPU (on a cluster: none where
    cpus_per_job is given, else one)."""
    cpus_per_job: int | None = Field(None, ge=1)
    """Cores of one job that uses no GPU, so that several run side by side; unset: all. (On a cluster: of every job;
    unset: one, or as many as GPUs.)"""
    processes_per_job: int | None = Field(None, ge=1)
    """Processes of one job where they are not one per GPU."""
    pack: int | None = Field(None, ge=1)
    """Most points that one job takes; unset: the whole block, shared out over the slots."""
    worker: Literal["resident", "fresh"] = "resident"
    """Whether model and data stay loaded from job to job of a run, or each job's process loads them anew."""
    keep: str = "best 3"
    """Adapters kept on disk: `all`, `none` or `best N` of a run."""
    time_limit: float | None = Field(None, gt=0)
    """Seconds one evaluation may train and score; longer is a failure of the point."""
    max_failed: int = Field(5, ge=1)
    """Failed evaluations in a row that stop a run."""
    max_failed_total: int | None = Field(None, ge=1)
    """Failed evaluations that stop it, in a row or not."""

    @field_validator("ray", "slurm", mode="before")
    @classmethod
    def _is_chosen(cls, value: Any, info: ValidationInfo) -> Any:
        executor = info.data.get("executor", info.field_name)  # where that is wrong itself, one sentence is enough
        if executor != info.field_name:
            raise ValueError(f"is for executor: {info.field_name}, and the executor is {executor}")
        return value

    @field_validator("keep")
    @classmethod
    def _keep(cls, value: str) -> str:
        if not re.fullmatch(r"all|none|best [1-9]\d*", value):
            raise ValueError("must be all, none or best N")
        return value

    @property
    def kept(self) -> int | None:
        """How many adapters are kept; None: all."""
        return None if self.keep == "all" else 0 if self.keep == "none" else int(self.keep.split()[1])

    @property
    def on_a_cluster(self) -> tuple[int, int]:
        """GPUs and cores of one job where this machine cannot say what there is."""
        gpus = self.gpus_per_job
        if gpus is None:
            gpus = 0 if self.cpus_per_job else 1
        return gpus, self.cpus_per_job or max(1, gpus)

"""Which scores an experiment's outputs need, and what determines each: no torch, no lm-eval.

An output that no training measures is a task: `mmlu`, `mmlu_anatomy`, `hellaswag.acc_norm`, `lm_eval:arc_easy`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from bbo.experiment import Output
from bbo.store import key_of
from blackbox.scores.settings import HUMANEVAL, ScoresSettings, TaskSettings
from blackbox.scores.sources import fingerprint, folder_of

PREFIX = "lm_eval:"

METRICS = {"mmlu": "acc", "hellaswag": "acc_norm", "bbh": "exact_match", "drop": "f1", HUMANEVAL: "pass@1"}
"""The metric of an output that names none; lm-eval's first one where the task is not here."""

SCORER = 1
"""Raised when the numbers of our own scorers change."""


@dataclass(frozen=True)
class Request:
    """One task as it is to be scored. Two of the same `digest` are the same."""

    task: str
    """lm-eval's name."""
    num_fewshot: int | None
    limit: int | None
    subtasks: tuple[str, ...]
    num_samples: int
    temperature: float
    data: str
    """Hash of its local files, or `hub`."""
    lm_eval: str
    """Its version, since the prompts are its."""
    scorer: int = SCORER
    max_new_tokens: int | None = None
    """Of an answer, where it is not lm-eval that says so."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "subtasks", tuple(self.subtasks))  # a list where it comes out of a job file

    @property
    def digest(self) -> str:
        about = asdict(self)
        if self.max_new_tokens is None:
            del about["max_new_tokens"]
        return key_of(about)

    @property
    def name(self) -> str:
        """Of the score's file beside the evaluation."""
        return f"{self.task}-{self.digest}"


@dataclass(frozen=True)
class Wanted:
    """The task that an output takes a metric of."""

    request: Request
    metric: str | None

    def value(self, metrics: Mapping[str, float]) -> float:
        """Of a score's metrics: the one that is named, else the task's usual one, else the first."""
        usual = METRICS.get(self.request.task.split("_")[0], "")
        metric = self.metric or (usual if usual in metrics else next(iter(metrics)))
        if metric not in metrics:
            raise InputError(f"outputs: {self.request.task} has no metric {metric}, it has {', '.join(metrics)}")
        return metrics[metric]


@dataclass(frozen=True)
class Scored:
    """What a scorer found out about one adapter."""

    metrics: dict[str, float]
    """By lm-eval's name, the task's first metric first; standard errors as acc_stderr."""
    count: int
    """Questions."""
    details: dict[str, Any]
    """What else is worth keeping: the metrics of subtasks, how many prompts were cut."""


def is_task(output: str) -> bool:
    """Whether an output may name a task."""
    return re.fullmatch(rf"({PREFIX})?[A-Za-z][\w-]*(\.[\w@-]+)?", output) is not None


def wanted(
    outputs: Sequence[Output],
    measured: Sequence[str],
    settings: ScoresSettings,
    base: Path,
    of_file: Callable[[Path], str],
) -> dict[str, Wanted]:
    """Of each output that is not among the measured ones, by its name. `of_file` hashes a file."""
    return {o.metric: _wanted(o.metric, settings, base, of_file) for o in outputs if o.metric not in measured}


def _wanted(output: str, settings: ScoresSettings, base: Path, of_file: Callable[[Path], str]) -> Wanted:
    task, _, metric = output.removeprefix(PREFIX).partition(".")
    chosen = settings.tasks.get(task, TaskSettings())
    folder = folder_of(task, settings.folder(base))
    fewshot = 5 if chosen.num_fewshot is None and task.split("_")[0] == "mmlu" else chosen.num_fewshot
    request = Request(
        task=task,
        num_fewshot=fewshot,
        limit=chosen.limit,
        subtasks=chosen.subtasks,
        num_samples=chosen.num_samples,
        temperature=chosen.temperature,
        data="hub" if folder is None else fingerprint(folder, of_file),
        lm_eval=version("lm_eval"),
    )
    return Wanted(request, metric or None)

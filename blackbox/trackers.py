"""`training.report_to`: evaluations in TensorBoard, MLflow or Weights & Biases, through accelerate's trackers.

One tracker run per evaluation, written out of its progress.jsonl when its training has ended: many evaluations train at
the same time in a pack, but MLflow and Weights & Biases know one active run per process. A tracker in trouble costs a
warning, never an evaluation.
"""

import fcntl
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bbo.store import Evaluation
from blackbox.hyperparameters import Training

MODULES = {"tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",), "wandb": ("wandb",)}
"""What must be installed, one of each."""


def missing(training: Training) -> list[str]:
    """A sentence for each tracker whose library is not installed."""
    lacking = (name for name in training.report_to if not any(map(find_spec, MODULES[name])))
    return [f"training.report_to: {name} is not installed: `pip install {name}`, or leave it out" for name in lacking]


def report(accelerator: Any, evaluations: Iterable[tuple[Training, Evaluation]], project: str) -> None:
    """Tell the trackers of each training what its evaluation has been through. For the main process alone."""
    for training, evaluation in evaluations:
        for name in training.report_to:
            try:
                with (evaluation.folder.parent / ".trackers.lock").open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that begin one database break it
                    _report(accelerator, name, training, evaluation, project)
            except Exception as error:
                said = str(error).strip().splitlines() or [""]
                trouble = f"{evaluation.key} is not in {name}: {type(error).__name__}: {said[0]}"
                print(f"training.report_to: {trouble}", file=sys.stderr, flush=True)
            finally:
                accelerator.trackers = []


def _report(accelerator: Any, name: str, training: Training, evaluation: Evaluation, project: str) -> None:
    from accelerate.tracking import filter_trackers  # noqa: PLC0415 - heavy

    folder = evaluation.folder
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder.parent / '.mlflow.db'}")
    accelerator.project_configuration.logging_dir = str(folder)
    accelerator.log_with = filter_trackers([name], str(folder))
    of_each = {
        "mlflow": {"run_name": evaluation.key, "logging_dir": str(folder.parent / ".mlflow")},
        "wandb": {"name": evaluation.key, "group": _group(folder), "dir": str(folder)},
    }
    accelerator.init_trackers(project, _flat(training), of_each)
    try:
        for entry in evaluation.epochs():
            values = {metric: value for metric, value in entry.items() if metric not in ("step", "steps")}
            accelerator.log(values, step=entry["step"])
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def _group(folder: Path) -> str:
    """The run's name, where the store is its own."""
    store = folder.parent
    return store.parent.name if store.name == "evals" else store.name


def _flat(training: Training) -> Mapping[str, Any]:
    """What trackers take: numbers and words."""
    values = training.model_dump(mode="json", exclude={"report_to"}, exclude_none=True)
    return {name: " ".join(value) if isinstance(value, list) else value for name, value in values.items()}

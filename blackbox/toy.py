"""`model: toy`: a closed form of the same four hyperparameters, for trying out all but the training in milliseconds.

The loss falls with the epochs towards a floor that depends on the point; a step that is too large diverges, as a real
training does; the seed adds noise. Shape and constants are ours and imitate nothing that was measured.
"""

import json
import math
import os
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import bbo
from bbo.errors import InputError
from bbo.experiment import Experiment
from bbo.space import Point
from bbo.stopping import Judge
from bbo.store import ROOT, Evaluation, Result

BASE_LOSS = 3.0

MISSING_ROWS = 0.1
"""What the loss gains where a fidelity leaves out (nearly) all training rows."""

METRICS = ("eval_loss", "train_loss", "eval_runtime", "train_runtime", "trainable_parameters")

PARAMETERS = 1024
"""Per rank."""


class ToyTraining(BaseModel):
    """The `training` section of a toy experiment, hyperparameters included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora_rank: int = Field(8, ge=1)
    lora_alpha: float = Field(16, gt=0)
    lora_dropout: float = Field(0, ge=0, le=1)
    learning_rate: float = Field(1e-4, gt=0)
    num_train_epochs: int = Field(4, ge=1)
    seed: int = 0
    noise: float = Field(0.002, ge=0)
    seconds_per_epoch: float = Field(0, ge=0)
    """Time to waste, for trying what takes time; changes no result."""

    def determinants(self) -> dict[str, Any]:
        """All of it that changes the result."""
        return self.model_dump(exclude={"seconds_per_epoch"})


def training_for(experiment: Experiment, hyperparameters: Mapping[str, Any]) -> ToyTraining:
    """The training section with a point's values in it. Raises InputError for a name or a value it does not take."""
    settings = experiment.section("training", ToyTraining)
    try:
        return ToyTraining.model_validate({**settings.model_dump(), **hyperparameters})
    except ValidationError as error:
        raise InputError(
            *(f"space.{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}, got {e['input']!r}" for e in error.errors())
        ) from None


@dataclass(frozen=True)
class State:
    """Where a training stands; at first it is the base model."""

    epoch: float = 0.0
    loss: float = BASE_LOSS
    """Without noise."""


def loss(training: ToyTraining, epoch: float, state: State) -> float:
    """Validation loss after `epoch` epochs, those up to `state` included; NaN where the training has diverged."""
    draw = random.Random(json.dumps(training.determinants(), sort_keys=True) + f"@{epoch:g}")
    return smooth(training, epoch, state) + (draw.gauss(0.0, training.noise) if epoch else 0.0)


def smooth(training: ToyTraining, epoch: float, state: State) -> float:
    """The loss without noise: from the state's it falls towards the floor."""
    step = math.log10(training.learning_rate * training.lora_alpha / math.sqrt(training.lora_rank))
    if step > -1.0 and epoch > 0:
        return math.nan
    floor = 1.0 + 0.15 * (step + 2.4) ** 2 + 0.02 * (math.log2(training.lora_rank) - 4) ** 2
    floor += 0.3 * (training.lora_dropout - 0.05) ** 2
    rate = 0.4 + 0.9 / (1 + math.exp(-2.0 * (step + 3.0)))
    return floor + (state.loss - floor) * math.exp(-rate * (epoch - state.epoch))


def evaluate(
    judge: Judge,
    training: ToyTraining,
    hyperparameters: Mapping[str, Any],
    point: Point | None,
    name: str,
    fidelity: Mapping[str, float] = {},
    parent: str | None = None,
) -> None:
    """Train and score one point, from the state of the evaluation `parent` if there is one; record how it ended."""
    started, evaluation, job = time.time(), judge.evaluation, f"toy-{os.getpid()}"
    evaluation.rewind(0)
    state = State()
    if parent not in (None, ROOT):
        state = State(**json.loads(Evaluation(evaluation.folder.with_name(parent)).state_file.read_text()))
    losses = []
    epochs = training.num_train_epochs * fidelity.get("epochs_fraction", 1.0)
    epochs = math.ceil(epochs) if parent is None else epochs
    rows = fidelity.get("train_fraction", 1.0)
    for step in range(1, math.ceil(epochs) + 1):
        time.sleep(training.seconds_per_epoch * rows)
        epoch = round(state.epoch + min(step, epochs), 6)
        losses.append(loss(training, epoch, state) + MISSING_ROWS * (1 - rows))
        evaluation.progress({"epoch": epoch, "step": step, "steps": math.ceil(epochs), "eval_loss": losses[-1]})
        if not math.isfinite(losses[-1]):
            break
        if step < epochs and (reason := judge.verdict()) is not None:
            judge.record(reason, time.time() - started, 0, job)
            return
    evaluation.applied_file.write_text(json.dumps(training.model_dump() | {"num_train_epochs": epochs}))
    ok = math.isfinite(losses[-1])
    if ok and parent is not None:
        evaluation.state_file.write_text(json.dumps(vars(State(epoch, smooth(training, epoch, state)))))
    seconds = time.time() - started
    metrics = {"eval_loss": losses[-1], "train_loss": sum(losses) / len(losses)} if ok else {}
    result = Result(
        key=evaluation.key,
        status="ok" if ok else "failed",
        metrics=metrics
        | {
            "train_runtime": seconds,
            "eval_runtime": 0.0,
            "trainable_parameters": float(PARAMETERS * training.lora_rank),
        },
        hyperparameters=dict(hyperparameters),
        point=point,
        experiment=name,
        seconds=seconds,
        phases={"start": 0.0, "load": 0.0, "train": seconds, "score": 0.0},
        gpu_seconds=0.0,
        started=started,
        finished=time.time(),
        host=socket.gethostname(),
        slot="in process",
        job=job,
        seed=training.seed,
        fidelity=dict(fidelity),
        reason=None if ok else f"the loss became {losses[-1]} in epoch {len(losses)}",
        versions={"bbo": bbo.__version__},
        parent=parent,
    )
    evaluation.record(result)

"""All that determines how one adapter is trained: the `training` section with a point's values in it.

The names are those of transformers 5 and PEFT, with their defaults; `global_batch_size` is ours. Knows no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from bbo.errors import InputError

DEFAULT_MICRO_BATCH = 8
"""Hugging Face's per_device_train_batch_size where nothing is said."""

DETERMINES_NOTHING = {
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
    "gradient_checkpointing",
    "report_to",
}
"""Settings that say how the same numbers are computed, and who is told; all others are part of an evaluation's key."""

OF_LORA = {"lora_rank", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"}
"""Settings of the adapter, which a training of all weights does not have."""

NEED_ARGUMENTS = {
    "reduce_lr_on_plateau",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
    "greedy",
}


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number), AfterValidator(lambda value: value + 0.0)]  # -0.0 is 0.0


class Section(BaseModel):
    """A section of the YAML that the blackbox reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def _schedule(value: Any) -> Any:
    if value in NEED_ARGUMENTS:
        raise ValueError("needs arguments of its own and is not offered: choose linear, cosine or polynomial, say")
    return value


Schedule = Annotated[
    Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ],
    BeforeValidator(_schedule),
]


Tracker = Literal["tensorboard", "mlflow", "wandb"]


class Training(Section):
    """The settings of one training run."""

    method: Literal["lora", "full"] = "lora"
    """Whether an adapter is trained on the frozen model, or the model itself."""
    lora_rank: Int = Field(8, ge=1)
    """PEFT's r."""
    lora_alpha: Float = Field(8.0, gt=0)
    lora_dropout: Float = Field(0.0, ge=0, le=1)
    """1 is legal and trains nothing."""
    use_rslora: bool = False
    target_modules: tuple[str, ...] | Literal["all-linear"] | None = None
    """Suffixes of module names; unset: PEFT's own choice for the architecture."""
    learning_rate: Float = Field(5e-5, ge=0)
    weight_decay: Float = Field(0.0, ge=0)
    adam_beta1: Float = Field(0.9, ge=0, lt=1)
    adam_beta2: Float = Field(0.999, ge=0, lt=1)
    adam_epsilon: Float = Field(1e-8, ge=0)
    max_grad_norm: Float = Field(1.0, ge=0)
    """0: no clipping."""
    lr_scheduler_type: Schedule = "linear"
    warmup_steps: Float = Field(0.0, ge=0)
    """Optimizer steps; below 1: share of all steps."""
    num_train_epochs: Float = Field(3.0, gt=0)
    global_batch_size: Int | None = Field(None, ge=1)
    """Sequences per optimizer step over all processes; unset: the product of the next two and the processes."""
    per_device_train_batch_size: Int | None = Field(None, ge=1)
    gradient_accumulation_steps: Int | None = Field(None, ge=1)
    per_device_eval_batch_size: Int = Field(8, ge=1)
    label_smoothing_factor: Float = Field(0.0, ge=0, lt=1)
    gradient_checkpointing: bool = False
    seed: Int = Field(42, ge=0, lt=2**63)
    report_to: tuple[Tracker, ...] = ()
    """Who is told of each epoch, through accelerate: see blackbox/trackers.py."""

    @field_validator("target_modules", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "all-linear":
            return tuple(value.replace(",", " ").split())
        return value

    @field_validator("target_modules")
    @classmethod
    def _some_name(cls, value: Any) -> Any:
        if value == ():
            raise ValueError("must name at least one module")
        return tuple(sorted(set(value))) if isinstance(value, tuple) else value

    @field_validator("report_to", mode="before")
    @classmethod
    def _trackers(cls, value: Any) -> Any:
        return () if value == "none" else (value,) if isinstance(value, str) else value

    @field_validator("warmup_steps")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise ValueError("must be a whole number of steps, or a share below 1")
        return value

    @model_validator(mode="after")
    def _warmup_has_effect(self) -> "Training":
        if self.lr_scheduler_type == "constant" and self.warmup_steps > 0:
            raise ValueError("the schedule constant ignores warmup_steps, got both: write constant_with_warmup")
        return self

    @model_validator(mode="after")
    def _full_has_no_adapter(self) -> "Training":
        named = [name for name in sorted(OF_LORA) if getattr(self, name) != type(self).model_fields[name].default]
        if self.method == "full" and named:
            raise ValueError(f"method full trains all weights and has no adapter: leave out {', '.join(named)}")
        return self

    def batch(self, processes: int) -> "Batch":
        """How an optimizer step is cut up over `processes`. Raises InputError naming what does not divide."""
        size, micro, passes = (
            self.global_batch_size,
            self.per_device_train_batch_size,
            self.gradient_accumulation_steps,
        )
        if size is None:
            micro, passes = micro or DEFAULT_MICRO_BATCH, passes or 1
            return Batch(micro * passes * processes, micro, passes)
        rest = f"x {processes} process{'es' if processes > 1 else ''}"
        if size % processes:
            raise InputError(f"training.global_batch_size: {size} is no multiple of the {processes} processes")
        share = size // processes
        if micro is None and passes is None:
            micro = next(rows for rows in range(min(share, DEFAULT_MICRO_BATCH), 0, -1) if share % rows == 0)
        for name, given in (("per_device_train_batch_size", micro), ("gradient_accumulation_steps", passes)):
            if given is not None and share % given:
                raise InputError(f"training.global_batch_size: {size} is no multiple of {name} {given} {rest}")
        micro = micro or share // (passes or 1)
        passes = passes or share // micro
        if micro * passes != share:
            product = f"per_device_train_batch_size {micro} x gradient_accumulation_steps {passes} {rest}"
            raise InputError(
                f"training.global_batch_size: {size} differs from {product} = {micro * passes * processes}"
            )
        return Batch(size, micro, passes)

    def warmup(self, steps: int) -> int:
        """Warm-up in optimizer steps of a run of `steps`, counted as transformers does."""
        return int(self.warmup_steps) if self.warmup_steps >= 1 else math.ceil(steps * self.warmup_steps)

    def steps_per_epoch(self, rows: int, processes: int) -> int:
        """Optimizer steps of one pass over `rows` rows; the last, smaller batch is a step too."""
        return math.ceil(rows / self.batch(processes).size)

    def steps(self, rows: int, processes: int) -> int:
        """Optimizer steps of a whole run."""
        return math.ceil(self.num_train_epochs * self.steps_per_epoch(rows, processes))

    def determinants(self, processes: int) -> dict[str, Any]:
        """Everything here that determines a result, as plain JSON, for the evaluation's key."""
        content = {name: value for name, value in self.acting().items() if name not in DETERMINES_NOTHING}
        return {**content, "global_batch_size": self.batch(processes).size}

    def acting(self) -> dict[str, Any]:
        """The settings that act, as plain JSON: with method full none of the adapter's, and only then the method."""
        return self.model_dump(mode="json", exclude={"report_to", *(OF_LORA if self.method == "full" else {"method"})})


def at_fidelity(training: Training, fidelity: Mapping[str, float]) -> Training:
    """The training as a fidelity shortens it, schedule and all; which rows it gets is said by data.part_of."""
    epochs = training.num_train_epochs * fidelity.get("epochs_fraction", 1.0)
    # 3 x 0.2 is a little more than 0.6, and would be a step more
    return training.model_copy(update={"num_train_epochs": float(f"{epochs:.12g}")})


@dataclass(frozen=True)
class Batch:
    """One optimizer step: `size` sequences = `micro` per process and pass x `passes` x processes."""

    size: int
    micro: int
    passes: int

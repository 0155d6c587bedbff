"""Applied = proposed: what live adapters, optimizer, scheduler and loop really use, held against what was asked for.

Every field of Training has an entry on both sides (a test walks over the fields), but for whom is told of it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import LoraLayer
from torch.nn import Linear
from transformers.pytorch_utils import Conv1D

from blackbox.heads import wrappers
from blackbox.hyperparameters import Training

UNSEEN = "nothing read back"

SCHEDULES = {
    "_get_linear_schedule_with_warmup_lr_lambda": "linear",
    "_get_cosine_schedule_with_warmup_lr_lambda": "cosine",
    "_get_cosine_with_hard_restarts_schedule_with_warmup_lr_lambda": "cosine_with_restarts",
    "_get_polynomial_decay_schedule_with_warmup_lr_lambda": "polynomial",
    "_get_constant_lambda": "constant",
    "_get_constant_schedule_with_warmup_lr_lambda": "constant_with_warmup",
    "_get_inverse_sqrt_schedule_lr_lambda": "inverse_sqrt",
}
"""transformers' functions of the step -> its names for them."""


@dataclass
class Counts:
    """What the loop counts of its own doing."""

    seed: int = -1
    steps: int = 0
    rows: int = 0
    """Most sequences of one optimizer step in this process's job, over all processes."""
    micro: int = 0
    """Most sequences in one pass."""
    passes: int = 0
    """Passes of that step, on each process."""
    eval_rows: int = 0
    """Most sequences in one pass of a validation."""


def expected(training: Training, rows: int, valid_rows: int, processes: int) -> dict[str, Any]:
    """The proposal with everything resolved that depends on data and processes: shares in steps, batches cut."""
    batch, steps = training.batch(processes), training.steps(rows, processes)
    size = min(batch.size, rows)
    micro = min(batch.micro, size)
    kind = training.lr_scheduler_type
    return {
        **training.acting(),
        "num_train_epochs": steps / training.steps_per_epoch(rows, processes),
        "warmup_steps": 0 if kind == "constant" else training.warmup(steps),
        "global_batch_size": size,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": math.ceil(math.ceil(size / batch.micro) / processes),
        "per_device_eval_batch_size": min(training.per_device_eval_batch_size, valid_rows),
    }


def read_adapter(model: Any, adapter: str, training: Training) -> dict[str, Any]:
    """What every layer of the live model that has this adapter holds; a list where the layers differ."""
    layers: dict[str, Any] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and adapter in module.lora_A
    }
    rank = _one(layer.lora_A[adapter].weight.shape[0] for layer in layers.values())
    alpha = _one(float(layer.lora_alpha[adapter]) for layer in layers.values())
    scaling = _one(layer.scaling[adapter] for layer in layers.values())
    return {
        "lora_rank": rank,
        "lora_alpha": alpha,
        "lora_dropout": _one(float(getattr(layer.lora_dropout[adapter], "p", 0.0)) for layer in layers.values()),
        "use_rslora": _rank_stabilized(model.peft_config[adapter], rank, alpha, scaling),
        "target_modules": _targets(model, list(layers), training),
        "gradient_checkpointing": any(getattr(part, "gradient_checkpointing", False) for part in model.modules()),
        "scaling": scaling,
    }


def read_model(model: Any, optimizer: Any) -> dict[str, Any]:
    """What a live model holds whose weights are all trained."""
    weights = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    whole = weights == trained == {id(parameter) for parameter in model.parameters()}
    return {
        "method": "full" if whole else f"{len(weights & trained)} of {len(list(model.parameters()))} weights",
        "gradient_checkpointing": any(getattr(part, "gradient_checkpointing", False) for part in model.modules()),
    }


def read_optimizer(optimizer: Any, scheduler: Any, steps_per_epoch: int) -> dict[str, Any]:
    """What the live optimizer's groups and the live schedule hold; of a schedule with an end, for how many epochs."""
    groups = optimizer.param_groups
    schedule = scheduler.lr_lambdas[0]
    function = getattr(schedule, "func", schedule).__name__
    arguments = getattr(schedule, "keywords", {})
    scheduled = arguments.get("num_training_steps")
    epochs = {} if scheduled is None else {"num_train_epochs": scheduled / steps_per_epoch}
    return {
        "learning_rate": _one(group["initial_lr"] for group in groups),
        "weight_decay": _one(group["weight_decay"] for group in groups if group.get("decays", True)),
        "adam_beta1": _one(group["betas"][0] for group in groups),
        "adam_beta2": _one(group["betas"][1] for group in groups),
        "adam_epsilon": _one(group["eps"] for group in groups),
        "lr_scheduler_type": SCHEDULES.get(function, function),
        "warmup_steps": arguments.get("num_warmup_steps", 0),
        **epochs,
    }


def read_loop(criterion: Any, clip: Any, counts: Counts, steps_per_epoch: int) -> dict[str, Any]:
    """What the loop's loss and clipping hold, and what it counted."""
    return {
        "label_smoothing_factor": criterion.label_smoothing,
        "max_grad_norm": 0.0 if clip is None else clip.keywords["max_norm"],
        "seed": counts.seed,
        "num_train_epochs": counts.steps / steps_per_epoch,
        "global_batch_size": counts.rows,
        "per_device_train_batch_size": counts.micro,
        "gradient_accumulation_steps": counts.passes,
        "per_device_eval_batch_size": counts.eval_rows,
        "steps": counts.steps,
    }


def differences(proposed: Mapping[str, Any], applied: Mapping[str, Any]) -> list[str]:
    """One `name: proposed X, applied Y` for each hyperparameter that did not reach the training."""
    return [
        f"{name}: proposed {value!r}, applied {applied.get(name, UNSEEN)!r}"
        for name, value in proposed.items()
        if applied.get(name, UNSEEN) != value
    ]


def _one(values: Iterable[Any]) -> Any:
    """The value that all have, or the list of different ones."""
    distinct = sorted(set(values))
    return distinct[0] if len(distinct) == 1 else distinct


def _rank_stabilized(config: Any, rank: Any, alpha: Any, scaling: Any) -> Any:
    """Which of PEFT's two scales the layers have, alpha / sqrt(rank) or alpha / rank; with rank 1 they are the same."""
    if isinstance(rank, list) or isinstance(alpha, list) or isinstance(scaling, list):
        return scaling
    plain, stabilized = (math.isclose(scaling, alpha / scale, rel_tol=1e-12) for scale in (rank, math.sqrt(rank)))
    if plain and stabilized:
        return config.use_rslora
    return stabilized if plain or stabilized else f"scaling {scaling}"


def _targets(model: Any, layers: list[str], training: Training) -> Any:
    """The proposal, if the live LoRA layers are exactly the modules it means; else the suffixes that have one."""
    proposed = training.target_modules
    suffixes = sorted({name.rpartition(".")[2] for name in layers})
    if proposed is None:
        return None if layers else suffixes
    saved = tuple(f"{name}." for name in wrappers(model))  # trained whole, as a classifier's head
    base = {name.removesuffix(".base_layer"): part for name, part in model.named_modules()}
    base = {name: part for name, part in base.items() if not f"{name}.".startswith(saved)} if saved else base
    if proposed == "all-linear":
        head = model.get_output_embeddings()
        head = getattr(head, "base_layer", head)
        meant = {name for name, part in base.items() if isinstance(part, Linear | Conv1D) and part is not head}
        meant = {name for name in meant if ".lora_" not in name}
    else:
        meant = {name for name in base if any(name.endswith(f".{target}") for target in proposed)}
    if meant == set(layers):
        return proposed if isinstance(proposed, str) else list(proposed)
    return suffixes

"""Which points of a job train together, and how many fit into memory at once."""

from collections.abc import Hashable, Sequence
from typing import TypeVar

from blackbox.hyperparameters import Training

OF_THE_ADAPTER = {
    "lora_rank", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "learning_rate", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type", "warmup_steps",
    "label_smoothing_factor", "seed",
}  # fmt: skip
"""Settings that companions in a pack may differ in. All others say how long and in what batches all of them train."""

Item = TypeVar("Item")


def shape_of(training: Training) -> Hashable:
    """What companions in a pack must agree in."""
    return training.model_dump_json(exclude=OF_THE_ADAPTER)


def alike(items: Sequence[Item], shapes: Sequence[Hashable]) -> list[list[Item]]:
    """The items of each shape, in order."""
    groups: dict[Hashable, list[Item]] = {}
    for item, shape in zip(items, shapes, strict=True):
        groups.setdefault(shape, []).append(item)
    return list(groups.values())


def evenly(items: Sequence[Item], most: int) -> list[list[Item]]:
    """The items in as few parts of at most `most` as possible, of nearly equal size."""
    parts = -(-len(items) // most)
    return [list(items[len(items) * i // parts : len(items) * (i + 1) // parts]) for i in range(parts)]

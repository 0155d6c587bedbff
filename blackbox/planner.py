"""Which points of a job train together, and how many fit into memory at once."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from bbo.store import Evaluation
from blackbox.data import by_length
from blackbox.fit import backward
from blackbox.hyperparameters import Training
from blackbox.member import members_of
from blackbox.setup import Setup

OF_THE_ADAPTER = {
    "lora_rank", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "learning_rate", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type", "warmup_steps",
    "label_smoothing_factor", "seed",
}  # fmt: skip
"""Settings that companions in a pack may differ in. All others say how long and in what batches all of them train."""

HEADROOM = 0.9
"""Share of the free memory that a pack is planned to fill; the rest is for what the measured pass did not show."""

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


def most_members(setup: Setup, trainings: Sequence[Training]) -> int:
    """How many of these fit into the memory of a GPU at once, by a measured pass of the longest rows with one of them.

    On a CPU as many as there are; one where all weights are trained.
    """
    if trainings[0].method == "full":
        return 1
    if setup.accelerator.device.type != "cuda" or len(trainings) == 1:
        return len(trainings)
    before, peak, free = _measure(setup, max(trainings, key=lambda training: training.lora_rank))
    return max(1, min(len(trainings), int(HEADROOM * free / (peak - before))))


def _measure(setup: Setup, training: Training) -> tuple[int, int, int]:
    """Bytes allocated before and at the height of one member's pass, its optimizer included; bytes that are free."""
    device, examples = setup.accelerator.device, setup.data.train
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    with members_of(setup, [training], [Evaluation(Path("unused"))]) as (pack, members):
        longest = by_length(examples, range(len(examples)))[: training.batch(1).micro]
        backward(setup, pack, members, [longest], [1])
        members[0].optimizer.step()
        peak = torch.cuda.max_memory_allocated(device)
    setup.accelerator.free_memory()
    return before, peak, free

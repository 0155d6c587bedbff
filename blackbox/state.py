"""The captured state of a member after an epoch: all it needs to go on as if it had never stopped.

One safetensors file: the adapter's weights, AdamW's moments, the dropout generators of all processes, and, in the
header, where the member stands. From it a killed job goes on, a stopped evaluation can be taken up again, and another
evaluation can start where this one ended.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from bbo.errors import InputError
from bbo.store import Evaluation
from blackbox.applied import Counts
from blackbox.member import Member, shared_counts
from blackbox.setup import Setup

MOMENTS = ("exp_avg", "exp_avg_sq")

STANDING = ("epoch", "first_epoch", "train_loss", "eval_loss", "train_seconds", "score_seconds", "eval_runtime")
"""What of a member is written into the header, beside its counts."""


def capture(setup: Setup, member: Member) -> None:
    """Write the member's state into its evaluation's folder: whole, or the one before stays."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in member.parameters.items():
        slots = member.optimizer.state[parameter]
        tensors |= {f"weight/{name}": _whole(parameter), f"step/{name}": slots["step"]}
        tensors |= {f"{moment}/{name}": _whole(slots[moment]) for moment in MOMENTS}
    generator = member.generator.get_state().to(setup.accelerator.device)
    tensors["generators"] = setup.accelerator.gather(generator[None])
    counts = shared_counts(setup, member.counts)
    if not setup.accelerator.is_main_process:
        return
    standing = {name: getattr(member, name) for name in STANDING} | {"counts": vars(counts)}
    file = member.evaluation.state_file
    temporary = _temporary(file)
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(content, temporary, {"standing": json.dumps(standing)})
    os.replace(temporary, file)


def forget(evaluation: Evaluation) -> None:
    """Remove the state, and what a capture that was killed has left."""
    for file in (evaluation.state_file, _temporary(evaluation.state_file)):
        file.unlink(missing_ok=True)


def epochs_behind(file: Path) -> int:
    """How many epochs the state in this file has behind it; 0 where there is none that could be read."""
    try:
        with safe_open(file, "pt") as state:
            return int(json.loads(state.metadata()["standing"])["epoch"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return 0


def resume(setup: Setup, member: Member, file: Path) -> None:
    """Go on exactly where the state of the same evaluation was captured."""
    standing = _take_over(setup, member, file)
    for name in STANDING:
        setattr(member, name, standing[name])
    counts = Counts(**standing["counts"])
    # Batches may be cut otherwise now: they are counted again, unless nothing is left to train.
    if counts.steps < member.training.steps(len(setup.data.train), setup.accelerator.num_processes):
        counts = replace(member.counts, steps=counts.steps)
    elif not setup.accelerator.is_main_process:
        counts.rows = 0  # all of them are in the main process's count
    member.counts = counts
    # A schedule is a function of the step alone.
    member.scheduler._step_count = member.counts.steps + 1
    member.scheduler.last_epoch = member.counts.steps - 1
    member.scheduler.step()


def follow(setup: Setup, member: Member, file: Path) -> None:
    """Start with the weights, moments, dropout and data order that another evaluation ended with.

    Schedule and length are the member's own. Raises InputError where there is no such state or its shapes differ.
    """
    if not epochs_behind(file):
        raise InputError(f"{file}: no state to start from: the parent must have been trained with keep_state")
    standing = _take_over(setup, member, file)
    member.first_epoch = int(standing["first_epoch"]) + int(standing["epoch"])


def _take_over(setup: Setup, member: Member, file: Path) -> Mapping[str, Any]:
    with safe_open(file, "pt") as state:
        names = {name.partition("/")[2] for name in state.keys() if name.startswith("weight/")}  # noqa: SIM118
        shapes = {name: tuple(state.get_slice(f"weight/{name}").get_shape()) for name in names}
        mine = {name: tuple(parameter.shape) for name, parameter in member.parameters.items()}
        if shapes != mine:
            raise InputError(
                f"{file}: cannot be continued by an adapter of another shape: lora_rank and target_modules must agree"
            )
        for name, parameter in member.parameters.items():
            slots = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            with torch.no_grad():
                for target, kind in ((parameter, "weight"), *((slots[moment], moment) for moment in MOMENTS)):
                    target.copy_(_like(state.get_tensor(f"{kind}/{name}"), target))
            step = state.get_tensor(f"step/{name}").to(setup.accelerator.device)
            member.optimizer.state[parameter] = {"step": step, **slots}
        generators = state.get_tensor("generators")
        # The processes may be others now, and a GPU's generator is not a CPU's.
        if generators.shape == (setup.accelerator.num_processes, len(member.generator.get_state())):
            # A copy, since set_state reads where a tensor's memory begins, not where the part of it does.
            member.generator.set_state(generators[setup.accelerator.process_index].clone())
        standing: Mapping[str, Any] = json.loads(state.metadata()["standing"])
    return standing


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(whole: Tensor, target: Tensor) -> Tensor:
    """`whole` as `target` is spread over the processes."""
    whole = whole.to(target.device)
    return distribute_tensor(whole, target.device_mesh, target.placements) if isinstance(target, DTensor) else whole

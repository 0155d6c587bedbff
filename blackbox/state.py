"""The captured state of a member after an epoch: all it needs to go on as if it had never stopped.

One safetensors file: the adapter's weights, AdamW's moments, the dropout generators of all processes, and, in the
header, where the member stands. From it a killed job goes on, a stopped evaluation can be taken up again, and another
evaluation can start where this one ended.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from bbo.errors import InputError
from bbo.store import Evaluation
from blackbox.member import Member
from blackbox.setup import Setup

MOMENTS = ("exp_avg", "exp_avg_sq")

STANDING = ("epoch", "first_epoch", "train_loss", "train_seconds", "score_seconds")
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
    if not setup.accelerator.is_main_process:
        return
    standing = {name: getattr(member, name) for name in STANDING} | {"counts": vars(member.counts)}
    file = member.evaluation.state_file
    temporary = file.with_name(f".{file.name}.new")
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(content, temporary, {"standing": json.dumps(standing)})
    os.replace(temporary, file)


def epochs_behind(evaluation: Evaluation) -> int:
    """How many epochs its captured state has behind it; 0 where there is none that could be read."""
    try:
        with safe_open(evaluation.state_file, "pt") as state:
            return int(json.loads(state.metadata()["standing"])["epoch"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return 0


def resume(setup: Setup, member: Member, file: Path) -> None:
    """Go on exactly where the state of the same evaluation was captured."""
    standing = _take_over(setup, member, file)
    for name in STANDING:
        setattr(member, name, standing[name])
    for entry in fields(member.counts):
        setattr(member.counts, entry.name, standing["counts"][entry.name])
    # A schedule is a function of the step alone.
    member.scheduler._step_count = member.counts.steps + 1
    member.scheduler.last_epoch = member.counts.steps - 1
    member.scheduler.step()


def follow(setup: Setup, member: Member, file: Path) -> None:
    """Start with the weights, moments, dropout and data order that another evaluation ended with.

    Schedule and length are the member's own. Raises InputError where the adapters' shapes differ.
    """
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
        if len(generators) == setup.accelerator.num_processes:
            member.generator.set_state(generators[setup.accelerator.process_index])
        standing: Mapping[str, Any] = json.loads(state.metadata()["standing"])
    return standing


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(whole: Tensor, target: Tensor) -> Tensor:
    """`whole` as `target` is spread over the processes."""
    whole = whole.to(target.device)
    return distribute_tensor(whole, target.device_mesh, target.placements) if isinstance(target, DTensor) else whole

"""The captured state of a member after an epoch: all it needs to go on as if it had never stopped.

One safetensors file: the adapter's weights, AdamW's moments, the dropout generators of all processes, and, in the
header, where the member stands. From it a killed job goes on, a stopped evaluation can be taken up again, and another
evaluation can start where this one ended.
"""

import json
import math
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

STANDING = {
    "epoch", "first_epoch", "share", "share_behind", "whole", "per_epoch", "train_loss", "eval_loss", "metrics",
    "train_seconds", "score_seconds", "eval_runtime",
}  # fmt: skip
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
    """How many epochs, begun ones too, an evaluation had trained by this state; 0 where none could be read."""
    return int(_standing(file).get("epoch", 0))


def share_behind(file: Path) -> float:
    """Of its schedule: what an evaluation that ended with this state leaves behind who follows; 0: all, or no state."""
    standing = _standing(file)
    share = standing.get("share_behind", 0.0) + standing.get("share", 0.0)
    return 0.0 if _whole_share(share) else float(share)


def _standing(file: Path) -> Mapping[str, Any]:
    try:
        with safe_open(file, "pt") as state:
            standing: Mapping[str, Any] = json.loads(state.metadata()["standing"])
            return standing
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return {}


def _whole_share(share: float) -> bool:
    """Seven times 1 / 7 is not quite 1."""
    return math.isclose(share, 1.0, rel_tol=1e-9)


def resume(setup: Setup, member: Member, file: Path) -> None:
    """Go on exactly where the state of the same evaluation was captured."""
    standing = _take_over(setup, member, file)
    for name in STANDING & standing.keys():  # a state of an older version has fewer
        setattr(member, name, standing[name])
    counts = Counts(**standing["counts"])
    # Batches may be cut otherwise now: they are counted again, unless nothing is left to train.
    if counts.steps < member.steps:
        counts = replace(member.counts, steps=counts.steps)
    elif not setup.accelerator.is_main_process:
        counts.rows = 0  # all of them are in the main process's count
    member.counts = counts
    _wind(member)


def follow(setup: Setup, member: Member, file: Path) -> None:
    """Start with what another evaluation ended with: weights, moments, dropout, data order, place in the schedule.

    Where that was the schedule's end, the member's own begins. Raises InputError where there is no such state, or it
    does not fit.
    """
    if not epochs_behind(file):
        raise InputError(f"{file}: no state to start from: the parent must have been trained with keep_state")
    standing = _take_over(setup, member, file)
    whole, per_epoch, first_epoch = (int(standing[name]) for name in ("whole", "per_epoch", "first_epoch"))
    member.share_behind = share_behind(file)
    if not member.share_behind:
        member.first_epoch = first_epoch + math.ceil(whole / per_epoch)
        return
    if (whole, per_epoch) != (member.whole, member.per_epoch):
        raise InputError(
            f"{file}: a part of {whole} steps, {per_epoch} per epoch, cannot be followed by one of {member.whole} "
            f"steps, {member.per_epoch} per epoch: num_train_epochs, global_batch_size and train_fraction must agree"
        )
    share = member.share_behind + member.share
    if share > 1 and not _whole_share(share):
        raise InputError(
            f"{file}: {member.share_behind:g} of the training is behind it, {member.share:g} more is too much"
        )
    member.first_epoch = first_epoch
    _wind(member)


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


def _wind(member: Member) -> None:
    """Set the schedule, a function of the step alone, to where the member stands."""
    step = member.behind + member.counts.steps
    member.scheduler._step_count = step + 1
    member.scheduler.last_epoch = step - 1
    member.scheduler.step()


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(whole: Tensor, target: Tensor) -> Tensor:
    """`whole` as `target` is spread over the processes."""
    whole = whole.to(target.device)
    return distribute_tensor(whole, target.device_mesh, target.placements) if isinstance(target, DTensor) else whole

"""The heads of classifiers: what a checkpoint does not bring is trained whole, by each member of a pack for itself.

PEFT keeps a member's head beside the base model's in a wrapper (`modules_to_save`) that can hold one adapter's active;
in a pack it gets a forward that knows whose rows are whose, as the LoRA layers do.
"""

import copy
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor
from torch.nn import Linear, Module

from blackbox.layout import Layout

NAMES = ("score", "classifier")
"""Of the head in transformers' models; PEFT's list for SEQ_CLS."""


def mark_fresh(model: Any, missing: Iterable[str]) -> None:
    """Note on a classifier which modules have no weights in the checkpoint: `missing` are names of parameters."""
    model.fresh_modules = frozenset(name.rpartition(".")[0] for name in missing)


def is_classifier(model: Any) -> bool:
    return hasattr(model, "fresh_modules")


def modules_to_save(model: Any) -> list[str]:
    """What PEFT is to train whole beside the head: all else that has no weights in the checkpoint, as BERT's pooler."""
    return sorted(name for name in model.fresh_modules if not set(name.split(".")) & set(NAMES))


def wrappers(adapted: Module) -> dict[str, ModulesToSaveWrapper]:
    """The modules that are trained whole, by name."""
    return {name: part for name, part in adapted.named_modules() if isinstance(part, ModulesToSaveWrapper)}


def draw(model: Any, adapted: PeftModel, name: str) -> None:
    """Give this adapter a head of its own, in float32: drawn now where the checkpoint brings none, else a copy of its.

    It is drawn on the CPU, so that every device has the same.
    """
    for place, wrapper in wrappers(adapted).items():
        head = copy.deepcopy(wrapper.original_module).float()
        device = next(head.parameters()).device
        own = place.removeprefix("base_model.model.")
        if any(f"{part}.".startswith(f"{own}.") for part in model.fresh_modules):
            head = head.cpu()
            for parameter in head.parameters():
                parameter._is_hf_initialized = False  # else transformers lets it be
            for part in head.modules():
                model._init_weights(part)
        wrapper.modules_to_save[name] = head.to(device).requires_grad_(True)


def activate(adapted: PeftModel, names: Sequence[str]) -> None:
    """All adapters at once. PEFT's own call refuses where there are heads: it could not say whose rows are whose."""
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.set_adapter(list(names))
    for wrapper in wrappers(adapted).values():
        wrapper.modules_to_save.requires_grad_(True)


def take_off(model: Module) -> None:
    """The base model's own heads in the place of the wrappers; PEFT would leave a member's there."""
    for name, wrapper in wrappers(model).items():
        model.set_submodule(name, wrapper.original_module)


class Heads:
    """The heads of a pack at work: none where its model is no classifier."""

    def __init__(self, adapted: PeftModel) -> None:
        self._wrappers = wrappers(adapted)
        self._layout: Layout
        self._names: Sequence[str] = ()
        self._said = torch.empty(0)
        for wrapper in self._wrappers.values():
            wrapper.forward = partial(self._forward, wrapper)  # type: ignore[method-assign]

    def __bool__(self) -> bool:
        return bool(self._wrappers)

    def logits(self, model: Any, layout: Layout, names: Sequence[str], extra: dict[str, Any]) -> Tensor:
        """(rows, classes), float32, of the members named, or by the base model's own head."""
        self._layout, self._names = layout, names
        model(input_ids=layout.ids, use_cache=False, **extra)
        return self._said.float()

    @torch.no_grad()
    def share(self) -> None:
        """The base model's head for every member: what they say then differs by their adapters alone."""
        for wrapper in self._wrappers.values():
            for head in wrapper.modules_to_save.values():
                head.load_state_dict(wrapper.original_module.state_dict())

    def _forward(self, wrapper: Any, x: Tensor) -> Tensor:
        """The member's heads on their rows. Who sees rows from the left has the answer at their last token, and there
        alone it is computed; else the model has pooled each row before. The last that is called speaks for the model.
        """
        by_token = x.dim() == 3 and isinstance(wrapper.original_module, Linear)
        rows = x.flatten(0, 1).index_select(0, self._layout.learnt) if by_token else x
        if self._names:
            spans = zip(self._names, self._layout.labels, strict=True)
            self._said = torch.cat(
                [wrapper.modules_to_save[name](rows[first:end].float()) for name, (first, end) in spans]
            )
        else:
            self._said = wrapper.original_module(rows)
        if not by_token:
            return self._said
        everywhere = self._said.new_zeros(x.shape[0] * x.shape[1], self._said.shape[-1])
        return everywhere.index_copy(0, self._layout.learnt, self._said).view(*x.shape[:2], -1)

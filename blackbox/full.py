"""`training.method: full`: all weights of a copy of the base model are trained; what comes out is a model by itself."""

import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import Linear, Parameter
from transformers.pytorch_utils import Conv1D

from bbo.errors import InputError
from blackbox.layout import Layout
from blackbox.model import load_model
from blackbox.pack import Pack
from blackbox.settings import Settings, Training
from blackbox.setup import Setup


class FullPack(Pack):
    """A pack of one, whose member is a whole model. Rows are padded: what is written for frozen weights is left out.

    With `dtype` bfloat16 the weights stay float32, so that small steps are not lost in rounding, and their products are
    computed in bfloat16. float16 would need its loss scaled, and steps left out where it overflows.
    """

    packs_rows = False

    def __init__(self, base: Any, training: Training, device: torch.device, dtype: str) -> None:
        """The base model stays as it is, and where it is: see setup.load."""
        self._base = base
        self._dtype = getattr(torch, dtype)
        super().__init__(base, [training], device)

    def attach(self, base: Any, trainings: Sequence[Training]) -> Any:
        return copy.deepcopy(base).requires_grad_(True).to(self.device)

    @property
    def base(self) -> Any:
        return self.adapted

    def detach(self) -> Any:
        del self.adapted, self.model
        return self._base

    def parameters(self, name: str) -> dict[str, Parameter]:
        return dict(self.adapted.named_parameters())

    def groups(self, name: str) -> list[dict[str, Any]]:
        """As transformers.Trainer has them: biases and the weights of norms do not decay."""
        parameters = self.parameters(name).values()
        matrices, vectors = ([p for p in parameters if (p.ndim < 2) is flat] for flat in (False, True))
        return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0, "decays": False}]

    def logits(self, layout: Layout, names: Sequence[str]) -> Tensor:
        """Without names too it is the member that speaks, which is the base model before its first step."""
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            return super().logits(layout, names)


def pack_of(setup: Setup, trainings: Sequence[Training]) -> Pack:
    """The pack in which these train. Raises InputError."""
    if trainings[0].method == "lora":
        return Pack(setup.base, trainings, setup.accelerator.device)
    (training,) = trainings
    if setup.sharded:
        raise InputError("training.method: full is not offered with FSDP: each process holds the whole model")
    return FullPack(setup.base, training, setup.accelerator.device, setup.dtype)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save model and tokenizer as transformers loads them: whole under its name, or not there."""
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


@contextmanager
def with_model(setup: Setup, settings: Settings, name: str | None, folder: Path | None) -> Iterator[PeftModel]:
    """A saved model, or the base model without a folder, in evaluation mode, as scorers take it.

    They set the adapter `name`: it is a fresh one, which changes nothing.
    """
    whole = copy.deepcopy(setup.base) if folder is None else load_model(folder, settings.model)
    whole = whole.to(setup.accelerator.device, getattr(torch, settings.model.dtype))
    head = whole.get_output_embeddings()
    layers = (key for key, part in whole.named_modules() if isinstance(part, Linear | Conv1D) and part is not head)
    nothing = LoraConfig(task_type="CAUSAL_LM", r=1, target_modules=[next(layers)])
    yield get_peft_model(whole, nothing, adapter_name=name or "default").eval()

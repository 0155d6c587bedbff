"""A pack: several LoRA adapters on one frozen base model, each acting on its own rows of a common forward pass.

The base model's matrix products are computed once for all rows, the adapters' products per member and in place.
PEFT's adapters stay the parameters; its LoRA layers get a forward that knows whose rows are whose.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Generator, Tensor
from torch.nn import Linear, Module, Parameter

from bbo.errors import InputError
from blackbox import attention, kernels
from blackbox.data import Example
from blackbox.heads import Heads
from blackbox.layout import Layout, Span, lay_out
from blackbox.model import attach, detach
from blackbox.settings import Training

SIDE_BY_SIDE = {"llama", "mistral", "qwen2", "qwen3"}
"""Model types that take rows without padding: attention chosen by name, positions given from outside, and layers that
end in a position-wise `mlp`."""


class Pack:
    """Fresh adapters on a base model, and the pass that is under way."""

    packs_rows = True
    """Whether rows may go without padding, where the model can."""

    def __init__(self, base: Any, trainings: Sequence[Training], device: torch.device) -> None:
        """One adapter for each training. Raises InputError, the base model then being as it was."""
        self.names = [f"member{number}" for number in range(len(trainings))]
        self.generators = {name: Generator(device) for name in self.names}
        """Of each member's dropout."""
        self.device = device
        self.adapted: Any = self.attach(base, trainings)
        self.model: Any = self.adapted
        """What is called: accelerate may wrap it."""
        self._own_attention = base.config._attn_implementation
        self._flat = self.packs_rows and base.config.model_type in SIDE_BY_SIDE and self._own_attention == "sdpa"
        self._undo = kernels.install(base) if self._flat and device.type == "cpu" else None
        # The kernel of a GPU takes whole rows.
        self._sharing = self._flat and device.type == "cpu"
        self.heads = Heads(self.adapted)
        """Of classifiers."""
        self._drops = {name: training.lora_dropout > 0 for name, training in zip(self.names, trainings, strict=True)}
        self._hooks: list[Any] = []
        self._learnt = torch.empty(0)
        self._spans: list[tuple[str, Span, Tensor | None]] = []
        """The rows of x that are each member's, and which of them are no padding, in the layer being computed."""
        try:
            self._install()
        except BaseException:
            self.close()
            raise

    def attach(self, base: Any, trainings: Sequence[Training]) -> Any:
        """What is trained."""
        return attach(base, dict(zip(self.names, trainings, strict=True)))

    def detach(self) -> Any:
        """Take it off: the base model as it was."""
        return detach(self.adapted)

    @property
    def base(self) -> Any:
        """The model whose layers are computed."""
        return self.adapted.get_base_model()

    def close(self) -> Any:
        """Take the adapters off. Returns the base model as it was."""
        for hook in self._hooks:
            hook.remove()
        if self._undo is not None:
            self._undo()
        if self._flat:
            self.base.set_attn_implementation(self._own_attention)
        return self.detach()

    def parameters(self, name: str) -> dict[str, Parameter]:
        """What a member trains, by PEFT's names without the member's own."""
        mark = f".{name}."
        parameters = self.adapted.named_parameters()
        return {key.replace(mark, "."): parameter for key, parameter in parameters if mark in key}

    def groups(self, name: str) -> list[dict[str, Any]]:
        """The same as an optimizer takes it."""
        return [{"params": list(self.parameters(name).values())}]

    def lay_out(self, examples: Sequence[Example], rows: Sequence[Sequence[int]], names: Sequence[str] = ()) -> Layout:
        """One pass over these rows, a list for each of the members named, or for the untouched base model."""
        sharing = [not (self.model.training and self._drops[name]) for name in names] or [True] * len(rows)
        return lay_out(examples, rows, self.device, self._flat, sharing if self._sharing else [])

    def logits(self, layout: Layout, names: Sequence[str]) -> Tensor:
        """(labels, vocabulary or classes), float32, where the layout has something to predict.

        `names` are the members that the rows belong to; without any it is the untouched base model that speaks.
        """
        self._learnt, self._last, self._rows = layout.learnt, layout.last, len(layout.lengths)
        none: Sequence[Tensor | None] = [None] * len(names)
        self._all_spans = self._spans = list(zip(names, layout.members, layout.real, strict=False))
        self._label_spans = list(zip(names, layout.labels, none, strict=False))
        self._last_spans = list(zip(names, layout.last_members, none, strict=False))
        extra: dict[str, Any] = {"position_ids": layout.positions, "layout": layout} if self._flat else {}
        if self.heads:
            return self.heads.logits(self.model, layout, names, extra or {"attention_mask": layout.mask})
        logits: Tensor = self.model(input_ids=layout.ids, use_cache=False, **extra).logits[0]
        return logits.float()

    def _install(self) -> None:
        for name, layer in self.adapted.named_modules():
            if isinstance(layer, LoraLayer):
                if not layer.lora_A or not all(isinstance(part, Linear) for part in layer.lora_A.values()):
                    place = name.removeprefix("base_model.model.")
                    raise InputError(f"training.target_modules: {place} is no linear layer")
                layer.forward = partial(self._forward, layer)  # type: ignore[attr-defined]
        base = self.base
        if not self.heads:
            head = base.get_output_embeddings()
            self._hooks.append(head.register_forward_pre_hook(self._enter_head))
            self._hooks.append(head.register_forward_hook(self._leave_head))
        if self._flat:
            base.set_attn_implementation(attention.NAME)
            last = base.get_decoder().layers[-1]
            for part in (last.self_attn.q_proj, last.self_attn.o_proj, last.mlp):
                self._hooks.append(part.register_forward_pre_hook(self._enter_last))
                self._hooks.append(part.register_forward_hook(self._leave_last))

    def _forward(self, layer: Any, x: Tensor) -> Tensor:
        """What a LoRA layer computes: the base layer's product, and to it added each member's own on its rows."""
        result: Tensor = layer.base_layer(x)
        products, weights = [], []
        # Behind a classifier's pooler there is one vector for a row, as there is one label.
        pooled = self.heads and x.dim() == 2 and len(x) == self._rows
        for name, span, real in self._label_spans if pooled else self._spans:
            if name in layer.lora_A:
                rate = getattr(layer.lora_dropout[name], "p", 0.0) if layer.training else 0.0
                scaling = layer.scaling[name] * (1 / (1 - rate) if rate < 1 else 0)
                products.append(_Product(*span, scaling, rate, self.generators[name], real))
                weights += [layer.lora_A[name].weight.to(result.dtype), layer.lora_B[name].weight.to(result.dtype)]
        if not products:
            return result
        return _AddProducts.apply(
            result.clone() if result._is_view() else result, x.to(result.dtype), products, *weights
        )

    def _enter_head(self, _: Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        """The vocabulary is large and few positions carry a label: project those alone."""
        self._spans = self._label_spans
        return (arguments[0].flatten(0, 1).index_select(0, self._learnt)[None],)

    def _leave_head(self, *_: Any) -> None:
        self._spans = self._all_spans

    def _enter_last(self, _: Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        """In the last layer a token without a label matters as key and value alone: no query, no output, no `mlp`."""
        self._spans = self._last_spans
        self._tokens = arguments[0].shape[1]
        return (arguments[0].index_select(1, self._last),)

    def _leave_last(self, _: Module, __: tuple[Tensor], result: Tensor) -> Tensor:
        self._spans = self._all_spans
        return result.new_zeros(1, self._tokens, result.shape[-1]).index_copy(1, self._last, result)


class _Product(NamedTuple):
    """One member's part of a LoRA layer: rows `first` to `end` of its input."""

    first: int
    end: int
    scaling: float
    """What dropout leaves is scaled up by it too."""
    dropout: float
    generator: Generator
    real: Tensor | None = None
    """Which of these rows are no padding; None: all."""


class _AddProducts(torch.autograd.Function):
    """result[rows of m] += scaling_m dropout_m(x[rows of m]) A_m' B_m' for all members m, in place.

    Slicing and joining under autograd would write a gradient of the whole size for every member. What dropout leaves is
    scaled up together with the product.
    """

    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, products: list[_Product], *weights: Tensor) -> Tensor:
        rows, sums = x.flatten(0, -2), result.view(-1, result.shape[-1])
        inner, masks = [], []
        for product, (a, b) in zip(products, _pairs(weights), strict=True):
            mine = rows[product.first : product.end]
            mask = _mask(mine, product.dropout, product.generator, product.real) if product.dropout else None
            inner.append((mine if mask is None else mine * mask) @ a.t())
            sums[product.first : product.end].addmm_(inner[-1], b.t(), alpha=product.scaling)
            masks.append(mask)
        ctx.products = products
        ctx.save_for_backward(x, *weights, *inner, *masks)
        ctx.mark_dirty(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (whole,) = gradients
        products: list[_Product] = ctx.products
        count = len(products)
        x, *saved = ctx.saved_tensors
        weights, inner, masks = saved[: 2 * count], saved[2 * count : 3 * count], saved[3 * count :]
        rows, gradient = x.flatten(0, -2), whole.flatten(0, -2)
        of_x = _empty_or_zeros(rows, products) if ctx.needs_input_grad[1] else None
        of_weights: list[Tensor] = []
        for product, (a, b), xa, mask in zip(products, _pairs(weights), inner, masks, strict=True):
            mine = slice(product.first, product.end)
            of_inner = (gradient[mine] @ b).mul_(product.scaling)
            seen = rows[mine] if mask is None else rows[mine] * mask
            of_weights += [of_inner.t() @ seen, (gradient[mine].t() @ xa).mul_(product.scaling)]
            if of_x is not None:
                torch.mm(of_inner, a, out=of_x[mine])
                if mask is not None:
                    of_x[mine].mul_(mask)
        return whole, None if of_x is None else of_x.view(x.shape), None, *of_weights


def _empty_or_zeros(rows: Tensor, products: Sequence[_Product]) -> Tensor:
    """As `rows`; zeros where a member has no product here that will write its part."""
    covered = sum(product.end - product.first for product in products)
    return torch.empty_like(rows) if covered == len(rows) else torch.zeros_like(rows)


def _pairs(weights: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(weights[::2], weights[1::2], strict=True)


def _mask(x: Tensor, dropout: float, generator: Generator, real: Tensor | None = None) -> Tensor:
    """1 for what stays, each number with probability 1 - dropout to 32 bits: drawn so, three times faster than by
    bernoulli_. Nothing is drawn for padding, whose length depends on the companions.

    A CPU multiplies floats faster, a GPU has no memory for them.
    """
    if real is not None:
        drawn = _mask(x[: len(real)], dropout, generator)
        return torch.ones_like(x, dtype=drawn.dtype).index_copy_(0, real, drawn)
    pairs = torch.empty(-(-x.numel() // 2), dtype=torch.int64, device=x.device)
    drawn = pairs.random_(-(2**63), None, generator=generator).view(torch.int32)
    stays = drawn[: x.numel()].view(x.shape) >= min(round(dropout * 2**32) - 2**31, 2**31 - 1)
    return stays if x.is_cuda else stays.to(x.dtype)

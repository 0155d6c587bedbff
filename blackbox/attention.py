"""Causal attention over rows that lie side by side without padding, in the form transformers takes one from outside."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from blackbox.layout import Asking, Layout, Padding

NAME = "rows_side_by_side"
"""Under this name transformers finds it."""


def attention(  # noqa: PLR0913, PLR0917 - transformers calls it so
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    layout: Layout,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """(1, heads, tokens, width) each -> (1, tokens, heads, width). Every row sees itself alone.

    On the CPU the last layer's queries are those from which a label is predicted; of the others 0 comes back.
    """
    longest = max(layout.lengths)
    window = longest if sliding_window is None else sliding_window
    if query.is_cuda and query.dtype != torch.float32 and torch.cuda.get_device_capability() >= (8, 0):
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - its kernels are CUDA's alone

        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        options: Any = {"scale": scaling, "window_size": (window - 1, 0), "enable_gqa": q.shape[1] != k.shape[1]}
        flat: Any = varlen_attn(q, k, v, layout.bounds, layout.bounds, longest, longest, **options)
        return flat[None], None

    sizes = [end - first for first, end in layout.members]
    of_members = (part.split(sizes, dim=2) for part in (query, key, value))
    asking: Sequence[Asking | None] = layout.asking if _is_last(module) else [None] * len(sizes)
    parts = zip(*of_members, layout.padding, asking, strict=True)
    done = [_padded_attention(q, k, v, rows, last, scaling, sliding_window) for q, k, v, rows, last in parts]
    return torch.cat(done, 1), None


def _is_last(module: Any) -> bool:
    """Whether this is the last layer's attention: of that the tokens with a label alone are used (blackbox/pack.py)."""
    return bool(module.layer_idx == module.config.num_hidden_layers - 1)


def _padded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Padding,
    asking: Asking | None,
    scaling: float,
    window: int | None,
) -> Tensor:
    """The same for one member, by torch's attention over its rows padded to the longest."""
    count, longest = len(padding.rows.lengths), max(padding.rows.lengths)

    def flat(part: Tensor) -> Tensor:
        return part[0].transpose(0, 1).flatten(1)

    def of_rows(flat: Tensor, like: Tensor) -> Tensor:
        return flat.view(count, -1, like.shape[1], like.shape[3]).transpose(1, 2)

    def answers(query: Tensor, mask: Tensor | None) -> Tensor:
        k, v = (of_rows(_Pad.apply(flat(part), padding), part) for part in (key, value))
        found = scaled_dot_product_attention(query, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=True)
        return found.transpose(1, 2).flatten(0, 1).flatten(1)

    if asking is None:
        whole = window is None or window >= longest
        mask = None if whole else _sees(torch.arange(longest, device=query.device), longest, window)
        result = _Unpad.apply(answers(of_rows(_Pad.apply(flat(query), padding), query), mask), padding.real)
    else:
        mask = _sees(asking.places[:, None], longest, window)
        asked = answers(of_rows(flat(query).index_select(0, asking.tokens), query), mask).index_select(0, asking.real)
        result = asked.new_zeros(query.shape[2], asked.shape[1]).index_copy(0, asking.learnt, asked)
    return result.view(1, -1, query.shape[1], query.shape[3])


def _sees(places: Tensor, longest: int, window: int | None) -> Tensor:
    """(..., queries, longest) which of a row's tokens a query at each of these places sees: itself, those before."""
    behind = places[..., None] - torch.arange(longest, device=places.device)
    return (behind >= 0) & (behind < (longest if window is None else window))


class _Pad(torch.autograd.Function):
    """(tokens, width) -> (rows x longest, width). No real token sees the padding, so no gradient comes from it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: Padding) -> Tensor:
        ctx.padding = padding
        return x.index_select(0, padding.tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), padding = gradients, ctx.padding
        of_tokens = gradient.index_select(0, padding.real)
        of_rows = gradient.view(len(padding.rows.lengths), -1, gradient.shape[1])
        for rows, count, first in padding.shared:
            torch.sum(of_rows[rows, :count], dim=0, out=of_tokens[first : first + count])
        return of_tokens, None


class _Unpad(torch.autograd.Function):
    """(rows x longest, width) -> (tokens, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, real: Tensor) -> Tensor:
        ctx.save_for_backward(real)
        ctx.rows = len(x)
        return x.index_select(0, real)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (real,) = gradients, ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, gradient.shape[1]).index_copy_(0, real, gradient), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)

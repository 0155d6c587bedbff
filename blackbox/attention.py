"""Causal attention over rows that lie side by side without padding, in the form transformers takes one from outside."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from blackbox.layout import Layout, Padding

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
    """(1, heads, tokens, width) each -> (1, tokens, heads, width). Every row sees itself alone."""
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
    parts = zip(*of_members, layout.padding, strict=True)
    return torch.cat([_padded_attention(q, k, v, rows, scaling, sliding_window) for q, k, v, rows in parts], 1), None


def _padded_attention(
    query: Tensor, key: Tensor, value: Tensor, padding: Padding, scaling: float, window: int | None
) -> Tensor:
    """The same for one member, by torch's attention over its rows padded to the longest."""
    count, longest = len(padding.rows.lengths), max(padding.rows.lengths)

    def padded(part: Tensor) -> Tensor:
        _, heads, _, width = part.shape
        flat = _Pad.apply(part[0].transpose(0, 1).reshape(-1, heads * width), padding)
        return flat.view(count, longest, heads, width).transpose(1, 2)

    band = None
    if window is not None and window < longest:
        band = torch.ones(longest, longest, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    result = scaled_dot_product_attention(
        padded(query), padded(key), padded(value), band, is_causal=band is None, scale=scaling, enable_gqa=True
    )
    flat = _Unpad.apply(result.transpose(1, 2).flatten(0, 1).flatten(1), padding.real)
    return flat.view(1, -1, query.shape[1], query.shape[3])


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

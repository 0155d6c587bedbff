"""Parts of a LLaMA-like base model with their gradients written out, for the CPU: what autograd would record as a dozen
passes over memory is done in a few. The weights are frozen, so only inputs have gradients.

On a GPU the models' own code runs.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module


def install(model: Any) -> Callable[[], None]:
    """Let the model compute with these. Returns what undoes it."""
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    for norm in norms:
        norm.forward = _Norm(norm)
    code = {
        sys.modules[type(module).__module__]
        for module in model.modules()
        if type(module).__name__.endswith("Attention")
    }
    before = {module: module.apply_rotary_pos_emb for module in code if hasattr(module, "apply_rotary_pos_emb")}
    for module in before:
        module.apply_rotary_pos_emb = rotate  # type: ignore[attr-defined]

    def undo() -> None:
        for norm in norms:
            del norm.forward
        for module, function in before.items():
            module.apply_rotary_pos_emb = function  # type: ignore[attr-defined]

    return undo


class _Norm:
    def __init__(self, module: Module) -> None:
        self.module: Any = module

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = _RMSNorm.apply(x, self.module.weight, self.module.variance_epsilon)
        return result


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + epsilon) * weight, over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        width = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(width).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        of_normed = gradients[0] * weight
        along_x = torch.linalg.vecdot(of_normed, x).unsqueeze(-1)
        return of_normed.mul_(scale).addcmul_(x, along_x.mul_(scale**3).div_(-x.shape[-1])), None, None


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """transformers' apply_rotary_pos_emb."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _Rotate.apply(query, cos, sin), _Rotate.apply(key, cos, sin)


class _Rotate(torch.autograd.Function):
    """x cos + (x turned by half) sin; both halves of cos and of sin are equal, so the gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradients[0], cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    result = x * cos
    result[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    result[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return result

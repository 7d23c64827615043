"""A linear with a low-rank addition, and its gradient, in as few passes over memory as there are.

The same function as peft's LoRA without dropout: y = x W' + scale (x A') B'. Written by hand
because on a CPU most of the time of peft's goes into passes over activations. Knows no model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LowRank(torch.autograd.Function):
    """x [n, in] → [n, out]; computes in the weight's type, gives A and B float32 gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """Return x W' + scale (x A') B'. `down` is A [rank, in], `up` is B [out, rank]."""
        low_down, low_up = down.to(weight.dtype), up.to(weight.dtype)
        inner = x @ low_down.t()
        ctx.save_for_backward(x, weight, low_down, low_up, inner)
        ctx.scale = scale
        return torch.addmm(x @ weight.t(), inner, low_up.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B; the weight is frozen."""
        (grad,) = grads
        x, weight, down, up, inner = ctx.saved_tensors
        grad_inner = grad @ up * ctx.scale
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.addmm(grad @ weight, grad_inner, down)
        grad_down = (grad_inner.t() @ x).float()
        grad_up = (grad.t() @ inner).float() * ctx.scale
        return grad_x, None, grad_down, grad_up, None


class LowRankLinear(nn.Module):
    """A frozen linear and its addition; A is drawn, B is zero, so that it begins as the linear."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.linear = linear
        self.scale = scale
        place = linear.weight.device
        self.down = nn.Parameter(torch.zeros(rank, linear.in_features, device=place))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank, device=place))

    def forward(self, x: Tensor) -> Tensor:
        """Return the linear's output with the addition: [..., in] → [..., out]."""
        flat = x.reshape(-1, x.shape[-1])
        out: Tensor = LowRank.apply(flat, self.linear.weight, self.down, self.up, self.scale)  # type: ignore[no-untyped-call]
        if self.linear.bias is not None:
            out = out + self.linear.bias
        return out.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Begin anew: A uniform within 1/sqrt(in) (as peft's Kaiming start), B zero."""
        bound = self.linear.in_features**-0.5
        drawn = torch.rand(self.down.shape, generator=generator)
        self.down.copy_((2 * drawn - 1) * bound)
        self.up.zero_()


def add_low_rank(layer: nn.Module, rank: int, scale: float) -> list[LowRankLinear]:
    """Give every linear of a layer an addition, in place; return them in the layer's order."""
    found = [
        (owner, name, linear)
        for owner in layer.modules()
        for name, linear in owner.named_children()
        if isinstance(linear, nn.Linear)
    ]
    added = []
    for owner, name, linear in found:
        lora = LowRankLinear(linear, rank, scale)
        setattr(owner, name, lora)
        added.append(lora)
    return added

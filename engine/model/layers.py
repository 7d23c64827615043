"""The decoder's small operations, each a plain torch function whose every output row depends on its own input row alone, bit for bit.

That promise ("batch-invariant") is what makes a request's tokens independent of its neighbours. Measured: bfloat16 products have it for any
number of rows; float32 products have it from ROW_FLOOR rows on, so fewer are padded. tests/engine/test_batch_invariance.py holds it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

ROW_FLOOR = {torch.float32: 16, torch.bfloat16: 1}
"""Fewest rows in a matrix product, per dtype, from which on a row's bits no longer depend on how many there are."""

Linear = Callable[[torch.Tensor], torch.Tensor]


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None, kernel: str) -> Linear:
    """`x [rows, in] → x @ weight.T + bias`. The one place where a linear's kernel is chosen: "onednn" (prepacked) or "torch"."""
    if kernel == "torch":
        return lambda x: functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 32)
    call = torch.ops.mkldnn._linear_pointwise

    def linear(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = call(x, packed, bias, "none", [], "")
        return out

    return linear


def choose_linear_kernel(dtype: torch.dtype) -> str:
    """oneDNN's prepacked product for bfloat16 (a third faster at small batches), plain torch otherwise."""
    if dtype != torch.bfloat16 or not torch._C._has_mkldnn:
        return "torch"
    try:
        make_linear(torch.zeros(16, 16, dtype=dtype), None, "onednn")(torch.zeros(1, 16, dtype=dtype))
    except (RuntimeError, AttributeError):
        return "torch"
    return "onednn"


def pad_rows(x: torch.Tensor, floor: int) -> torch.Tensor:
    """Append zero rows (second-last dimension) up to `floor`."""
    missing = floor - x.shape[-2]
    return functional.pad(x, (0, 0, 0, missing)) if missing > 0 else x


def bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`a [n, rows, k] @ b [n, k, m]` with at least ROW_FLOOR rows inside, so that a row's bits do not depend on the others."""
    rows = a.shape[1]
    return torch.bmm(pad_rows(a, ROW_FLOOR[a.dtype]), b)[:, :rows]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm over the last dimension; computes in x's dtype, so give it float32."""
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)


def rope_table(inverse: torch.Tensor, context: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines, [context, 1, 2, head_dim / 2]: `x * cos + flip(x) * sin` rotates halves."""
    angles = torch.arange(context).float()[:, None] * inverse[None, :]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((cos, cos), 1)[:, None].to(dtype), torch.stack((-sin, sin), 1)[:, None].to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate `x [rows, heads, 2, head_dim / 2]` in place; cos and sin are [rows, 1, 2, head_dim / 2]."""
    flipped = x.flip(2)
    x.mul_(cos).addcmul_(flipped, sin)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """`[rows, 2 * n] → silu(first half) * second half`, [rows, n]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)

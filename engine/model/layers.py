"""Computes the decoder's small operations, each a plain torch function in which every output row
depends on its own input row alone, bit for bit. Knows no layer and no weight's name.

That promise ("batch-invariant") is what makes a request's tokens independent of its neighbours.
Measured: bfloat16 products have it for any number of rows from two on, float32 ones from 16 on, so
fewer are padded (ROW_FLOOR). oneDNN's AMX kernels never have it, so they are left out: that costs
prompts a factor of four where no compiler is (the native executor uses AMX and keeps the promise).
tests/engine/test_batch_invariance.py holds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.nn import functional

from .families import CLAMPED, GELU_TANH
from .quantised import MIDDLE, Quantised

os.environ.setdefault(
    "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16"
)  # read by oneDNN at its first product

ROW_FLOOR = {torch.float32: 16, torch.bfloat16: 2}
"""Fewest rows in a matrix product, per dtype, from which on a row's bits no longer depend on how
many there are.
"""

SMALL_PRODUCT = 16 * 16 * 16
CHAIN_NUMBERS = 512
ROW_BLOCK = 128
"""Inputs of a row that share a scale beside weights in 4 bits."""
ONE_THREAD_NUMBERS = 32768
"""Up to so many, torch leaves an elementwise operation to one thread."""

Linear = Callable[[torch.Tensor], torch.Tensor]


def make_linear(weight: torch.Tensor, kernel: str) -> Linear:
    """Make `x [rows, in] → x @ weight.T`.

    The one place where a linear's kernel is chosen: "onednn" (prepacked), "int8" (of a float32
    weight), "torch".
    """
    if kernel == "torch":
        return lambda x: functional.linear(x, weight)
    if kernel == "int8":
        return make_int8_linear(weight)
    if weight.dtype == torch.float32 and weight.shape[1] > CHAIN_NUMBERS:
        return _sum_of_chains(
            [
                make_linear(part.contiguous(), kernel)
                for part in torch.split(weight, CHAIN_NUMBERS, dim=1)
            ]
        )
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 32)
    call = torch.ops.mkldnn._linear_pointwise

    def linear(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = call(x, packed, None, attr="none", scalars=[], algorithm="")
        return out

    return linear


def _sum_of_chains(parts: list[Linear]) -> Linear:
    """Add up several short products: oneDNN sums a row in one chain, and float32 loses digits in
    long ones.
    """

    def linear(x: torch.Tensor) -> torch.Tensor:
        pieces = torch.split(x, CHAIN_NUMBERS, dim=1)
        out = parts[0](pieces[0].contiguous())
        for part, piece in zip(parts[1:], pieces[1:], strict=True):
            out += part(piece.contiguous())
        return out

    return linear


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise each row: `x [rows, n]` float32 → int8 [rows, n] and its scales [rows, 1].

    x ≈ whole * scale, halves away from zero.
    """
    most = x.abs().amax(-1, keepdim=True)
    scaled = x * torch.where(most > 0, 127.0 / most, torch.zeros_like(most))
    return (scaled + torch.where(scaled < 0, -0.5, 0.5)).trunc().to(torch.int8), most / 127.0


def make_int8_linear(weight: torch.Tensor) -> Linear:
    """Make a linear with weights in int8, one scale per output row.

    Each row of x is quantised by its own largest value; the sum is exact.
    """
    whole, scale = quantise_rows(weight)
    transposed = whole.t().contiguous()
    scale = scale.squeeze(1)

    def linear(x: torch.Tensor) -> torch.Tensor:
        rows, row_scale = quantise_rows(x.float())
        return (torch._int_mm(rows, transposed).float() * (scale * row_scale)).to(x.dtype)

    return linear


def make_q4_linear(weight: Quantised) -> Linear:
    """Make a linear with weights in 4 bits, as they lie; nothing is widened but a block at a time.

    Each block of a row of x is quantised by its own largest value. What a group's codes, 8 taken
    off each, and whole numbers come to is exact; then the groups of a block are added up, and then
    the blocks, each in order. engine/executor/codes.hpp computes the same.
    """
    group = weight.group
    codes = torch.split(weight.codes, ROW_BLOCK // 2, dim=1)
    block_groups = ROW_BLOCK // group
    scales = torch.split(weight.scales, block_groups, dim=1)
    offsets = torch.split(weight.offsets, block_groups, dim=1)

    def linear(x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(x), len(weight.codes))
        for number, part in enumerate(torch.split(x.float(), ROW_BLOCK, dim=1)):
            whole, row_scale = quantise_rows(part)
            left = whole.float().view(len(x), -1, group).transpose(0, 1)
            plain = torch.stack((codes[number] & 15, codes[number] >> 4), 2)
            right = plain.view(len(plain), -1, group).float() - MIDDLE
            # Sums of whole numbers below 2**24: exact in any order.
            exact = torch.bmm(left, right.permute(1, 2, 0))
            sums = left.sum(-1, keepdim=True)
            scale = scales[number].float().t()[:, None]
            shift = offsets[number].float().t()[:, None] + MIDDLE * scale
            terms = exact * scale + sums * shift
            block = terms[0]
            for term in terms[1:]:
                block = block + term
            out = out + block * row_scale
        return out.to(x.dtype)

    return linear


def choose_linear_kernel(dtype: torch.dtype) -> str:
    """Return "onednn" where its prepacked product works, else "torch".

    It is a third faster at small batches, and in float32 invariant on several threads where MKL's
    is not.
    """
    if not torch._C._has_mkldnn:
        return "torch"
    try:
        make_linear(torch.zeros(16, 16, dtype=dtype), "onednn")(torch.zeros(1, 16, dtype=dtype))
    except (RuntimeError, AttributeError):
        return "torch"
    return "onednn"


def pad_rows(x: torch.Tensor, floor: int) -> torch.Tensor:
    """Append zero rows (second-last dimension) up to `floor`."""
    missing = floor - x.shape[-2]
    return functional.pad(x, (0, 0, 0, missing)) if missing > 0 else x


def bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply `a [n, rows, k] @ b [n, k, m]`, padded inside so that a row's bits do not depend on
    the others.
    """
    return torch.bmm(pad_rows(a, bmm_floor(b)), b)[:, : a.shape[1]]


def bmm_floor(b: torch.Tensor) -> int:
    """Return the fewest rows against `b [n, k, m]` that keep the promise.

    torch leaves bfloat16 products of SMALL_PRODUCT and fewer multiplications to another kernel.
    """
    return max(ROW_FLOOR[b.dtype], SMALL_PRODUCT // (b.shape[1] * b.shape[2]) + 1)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise by the root mean square of the last dimension; computes in x's dtype, so give it
    float32.
    """
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)


def rope_table(
    cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay out cosines and sines [positions, head_dim / 2] as [positions, 1, 2, head_dim / 2], sines
    signed.

    `x * cos + flip(x) * sin` rotates halves.
    """
    return torch.stack((cos, cos), 1)[:, None].to(dtype), torch.stack((-sin, sin), 1)[:, None].to(
        dtype
    )


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate `x [rows, heads, 2, head_dim / 2]` in place; cos and sin are [rows, 1, 2, head_dim /
    2].
    """
    flipped = x.flip(2)
    x.mul_(cos).addcmul_(flipped, sin)


def fold(
    gate_up: torch.Tensor, activation: str, clamp: tuple[float, float] | None = None
) -> torch.Tensor:
    """Compute `[rows, 2 * n] → activation(first half) * second half`, [rows, n].

    clamp: alpha and limit of families.CLAMPED, which keeps both halves within the limit first.
    Works in pieces that one thread takes whole: torch cuts longer ones anywhere, and has another
    exponential for what is left over beside a cut.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    if clamp is not None:
        gate, up = gate.clamp(max=clamp[1]), up.clamp(-clamp[1], clamp[1]) + 1
    rows = max(1, ONE_THREAD_NUMBERS // gate.shape[-1])
    alpha = 1.0 if clamp is None else clamp[0]
    pieces = [activate(piece, activation, alpha) for piece in torch.split(gate, rows)]
    return torch.cat(pieces).mul_(up)


def activate(gate: torch.Tensor, activation: str, alpha: float = 1.0) -> torch.Tensor:
    """Compute the activation (families.SILU, GELU_TANH or CLAMPED) of every number."""
    if activation == CLAMPED:
        return gate * torch.sigmoid(gate * alpha)
    if activation == GELU_TANH:
        return functional.gelu(gate, approximate="tanh")
    return functional.silu(gate)

"""The small operations between products: norms, rotation and storing, SwiGLU. Each kernel has its plain torch reference beside it.

Rows are contiguous; a tensor's rows may lie further apart than they are wide. Expected times are bytes moved / 4.3 TB/s (what an H200
copies) at the shapes of Llama-3.1-8B; none is measured yet, and below some 100 rows a launch's own 2 µs are more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class HeadNorms:
    """Weights of the norms of each query and each key head (Qwen3), [head_dim] float32."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """`out [rows, width]` = root-mean-square norm of `hidden [rows, width]` float32, times `weight [width]` float32; rounded once."""
    rms_norm_reference(hidden, weight, eps, out)


def rms_norm_reference(hidden: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """See rms_norm."""
    out.copy_(functional.rms_norm(hidden, (hidden.shape[-1],), weight, eps))


def add_rms_norm(hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """`hidden [rows, width]` float32 `+= delta [rows, width]` in place, then as rms_norm."""
    add_rms_norm_reference(hidden, delta, weight, eps, out)


def add_rms_norm_reference(hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """See add_rms_norm."""
    hidden += delta
    rms_norm_reference(hidden, weight, eps, out)


def rotate_and_store(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    positions: torch.Tensor,
    cells: torch.Tensor,
    pool_layer: torch.Tensor,
    heads: int,
    kv_heads: int,
    norms: HeadNorms | None,
) -> None:
    """Norm and rotate the queries of `qkv [rows, (heads + 2 * kv_heads) * head_dim]` in place; put keys (normed, rotated) and values into the pool.

    cos, sin: [context, head_dim / 2] float32 by position, sines unsigned; both None: no rotation. Halves are rotated, as in layers.rotate.
    positions, cells: [rows] int32; cell < 0: a padding row, nothing is stored. pool_layer: [2 * kv_heads, num_pages, page_tokens * head_dim].
    Everything between reading and writing is float32. The keys inside `qkv` are left as they were.
    """
    rotate_and_store_reference(qkv, cos, sin, positions, cells, pool_layer, heads, kv_heads, norms)


def rotate_and_store_reference(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    positions: torch.Tensor,
    cells: torch.Tensor,
    pool_layer: torch.Tensor,
    heads: int,
    kv_heads: int,
    norms: HeadNorms | None,
) -> None:
    """See rotate_and_store."""
    by_head = qkv.view(len(qkv), heads + 2 * kv_heads, -1)
    query, key = by_head[:, :heads].float(), by_head[:, heads : heads + kv_heads].float()
    if norms is not None:
        query = functional.rms_norm(query, query.shape[-1:], norms.query, norms.eps)
        key = functional.rms_norm(key, key.shape[-1:], norms.key, norms.eps)
    if cos is not None and sin is not None:
        query, key = (_rotated(part, cos[positions][:, None], sin[positions][:, None]) for part in (query, key))
    by_head[:, :heads] = query
    stored = cells >= 0
    by_cell = pool_layer.view(2 * kv_heads, -1, query.shape[-1])
    by_cell[:, cells[stored].long()] = torch.cat((key.to(qkv.dtype), by_head[:, heads + kv_heads :]), 1)[stored].transpose(0, 1)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def swiglu(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """`out [rows, n]` = silu(first half) * second half of `gate_up [rows, 2 * n]`, in float32, rounded once."""
    swiglu_reference(gate_up, out)


def swiglu_reference(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """See swiglu."""
    gate, up = gate_up.float().chunk(2, -1)
    out.copy_(functional.silu(gate) * up)

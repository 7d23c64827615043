"""Mends what vLLM's build for processors gets wrong: rows without an adapter.

vLLM marks them by index -1; its torch operations take that for the last slot, so the bare base
answers with an adapter's weights wherever one shares its step and fills that slot (vllm-project/
vllm, pull requests 48421 and 49656, open on 2026-11-29). Its kernels for GPUs leave such rows out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EXPANDING = ("bgmv_expand", "bgmv_expand_slice")


def leave_out_bare_rows() -> bool:
    """Have vLLM's torch operations add nothing to rows without an adapter; return whether they did
    add something.
    """
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    if not _adds_to_bare_rows(lora_ops.bgmv_expand):
        return False
    for name in EXPANDING:
        mended = _without_bare_rows(getattr(lora_ops, name))
        setattr(lora_ops, name, mended)  # its own callers
        setattr(punica_cpu, name, mended)  # which imported it by name
    return True


def _adds_to_bare_rows(expand: Callable[..., Any]) -> bool:
    out = torch.zeros(1, 1)
    expand(torch.ones(1, 1), torch.ones(1, 1, 1), out, torch.tensor([-1]), True)
    return bool(out.any())


def _without_bare_rows(expand: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operation, given zeros for rows without an adapter."""

    def mended(
        inputs: Tensor, weights: Tensor, out: Tensor, indices: Tensor, *more: Any, **named: Any
    ) -> Any:
        bare = (indices < 0)[: len(inputs)].unsqueeze(1)
        return expand(inputs.masked_fill(bare, 0), weights, out, indices, *more, **named)

    return mended

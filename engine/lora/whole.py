"""Turns what replaces a module of the base as a whole into what a packed adapter holds.

A linear's own matrix V in the place of W is W plus the pair of V - W, of full rank: exact, and as
much memory as the linear. A norm's own weight v in the place of w is the gain v / w. Knows no file.
"""

from __future__ import annotations

import torch

from ..errors import BadAdapter

MAX_WHOLE_RANK = 8192
"""Beyond the rank that adapters are trained with: a linear of an 8B base as a whole has 4096."""


def check_rank(module: str, rank: int) -> None:
    """Raise BadAdapter where a pair of full rank is too wide."""
    if rank > MAX_WHOLE_RANK:
        raise BadAdapter(
            f"modules_to_save: {module} as a whole takes rank {rank} on this base; at most"
            f" {MAX_WHOLE_RANK} is served; train it with LoRA (target_modules)"
        )


def replace_linear(own: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pair (a, b) with `b @ a = own - base`, both [out, in]."""
    change = own - base
    rows, columns = change.shape
    if rows <= columns:
        return change, torch.eye(rows)
    return torch.eye(columns), change


def ratio_of(module: str, own: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return by what a norm's own weight multiplies the base's. Raises BadAdapter for a zero of the
    base.
    """
    ratio = own / base
    if not torch.isfinite(ratio).all():
        raise BadAdapter(
            f"tensor {module}.weight cannot take the base's place: the base's own has zeros there"
        )
    return ratio

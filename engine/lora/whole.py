"""Turns what replaces a module of the base as a whole into what a packed adapter holds: a pair of
full rank.

A linear's own matrix V in the place of W is W plus the pair of V - W. A norm's own weight v in the
place of w multiplies the inputs of the linears behind it by r = v / w: a pair (A, B) becomes
(A diag(r), B), and W itself the pair (diag(r - 1), W). Exact; it takes as much memory as those
linears. Knows no file.
"""

from __future__ import annotations

import torch

from ..errors import BadAdapter
from .layout import PartWeights

MAX_WHOLE_RANK = 1024
"""As of any adapter."""


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


def behind_norm(
    weights: PartWeights, ratio: torch.Tensor, base_weight: torch.Tensor
) -> PartWeights:
    """Return a linear's change where its inputs are multiplied by `ratio [in]` first."""
    diagonal = torch.diag(ratio - 1)
    own = base_weight if weights.gain is None else base_weight * weights.gain[:, None]
    if weights.a is None or weights.b is None:
        return PartWeights(diagonal, own, gain=weights.gain, shift=weights.shift)
    return PartWeights(
        torch.cat([weights.a * ratio, diagonal]),
        torch.cat([weights.b, own], dim=1),
        gain=weights.gain,
        shift=weights.shift,
    )

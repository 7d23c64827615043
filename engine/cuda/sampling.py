"""Choosing tokens on the device: the highest logit, and draws exactly as executor/draw.py and docs/protocols/sampling.md say."""

from __future__ import annotations

import torch

from ..executor.draw import Draw, Drawn, draw_one

BLOCK_IDS = 4096
"""Ids that one block of best_and_finite looks at."""


def best_scratch_numbers(wanted: int, vocab: int) -> int:
    """How many int64 `scratch` of best_and_finite must hold at least."""
    return wanted * -(-vocab // BLOCK_IDS)


def best_and_finite(logits: torch.Tensor, best: torch.Tensor, finite: torch.Tensor, scratch: torch.Tensor) -> None:
    """The lowest id of the highest logit and whether all logits are finite, for each row of `logits [wanted, vocab]` float32.

    best: [wanted] int64; some id where a row is not finite. finite: [wanted] int64, 1 or 0. scratch: int64, see best_scratch_numbers.
    """
    best_and_finite_reference(logits, best, finite, scratch)


def best_and_finite_reference(logits: torch.Tensor, best: torch.Tensor, finite: torch.Tensor, scratch: torch.Tensor) -> None:
    """See best_and_finite."""
    best.copy_(logits.argmax(-1))
    finite.copy_(logits.isfinite().all(-1))


def draw(logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
    """Choose from finite rows of `logits [wanted, vocab]` float32. Waits for the device; not for graphs."""
    return draw_reference(logits, draws)


def draw_reference(logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
    """See draw."""
    rows = logits.cpu().numpy()
    return [draw_one(rows[each.row], each) for each in draws]

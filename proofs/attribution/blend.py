"""Divides in exact integers: an amount by weights, and the data's part of a fee by what an answer
drew on and by standing weights.

    parts = blend(drawn.bits, standing_bps, lambda_eighths)     # basis points that sum to 10,000

λ, in eighths, is fitted when an adapter is published and stands in its manifest. An answer that
drew fewer than `none_bits` bits in all drew on nobody: standing weights alone. Knows no address and
no manifest.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..origin import WHOLE_EIGHTHS

BIT = 1 << 16  # bits are counted in these
NONE_BITS = 8
WHOLE_BPS = 10_000


def blend(
    bits: Sequence[int],
    standing_bps: Sequence[int],
    lambda_eighths: int,
    none_bits: int = NONE_BITS,
) -> tuple[int, ...]:
    """Return each contributor's part in basis points: λ by `bits`, the rest by standing weights.

    `bits` are in 1/65536. Standing weights are relative to one another, 0 or more, and not all 0.
    Raises ValueError for anything else.
    """
    if len(bits) != len(standing_bps):
        raise ValueError(f"{len(bits)} bits and {len(standing_bps)} standing weights")
    if not 0 <= lambda_eighths <= WHOLE_EIGHTHS:
        raise ValueError(f"λ is 0 to {WHOLE_EIGHTHS} eighths, not {lambda_eighths}")
    if min(bits, default=0) < 0 or min(standing_bps, default=0) < 0 or not sum(standing_bps):
        raise ValueError("bits and standing weights are 0 or more, and not all weights are 0")
    total = sum(bits)
    if total < none_bits * BIT or not total:
        return tuple(divide(WHOLE_BPS, standing_bps))
    standing = sum(standing_bps)
    weights = [
        lambda_eighths * mine * standing + (WHOLE_EIGHTHS - lambda_eighths) * weight * total
        for mine, weight in zip(bits, standing_bps, strict=True)
    ]
    return tuple(divide(WHOLE_BPS, weights))


def divide(amount: int, weights: Sequence[int]) -> list[int]:
    """Divide by largest remainder: integers that sum to `amount`, each within one unit of its exact
    value; of equal remainders the earlier is served first. Nothing for weights that are all 0.
    """
    total = sum(weights)
    if not total:
        return []
    parts = [amount * weight // total for weight in weights]
    # By integer remainders, not fractions: every node must choose the same parts to the unit.
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(amount * weights[i] % total), i))
    for i in by_remainder[: amount - sum(parts)]:
        parts[i] += 1
    return parts

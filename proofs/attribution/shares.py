"""Divides a fee: policy → shares in basis points → exact integer amounts.

Decides each party's part; pays nobody and knows no channel.

A fee of 7 for [6000, 2500, 1500] is 4.2 + 1.75 + 1.05: each gets its whole part (4, 1, 1) and what
is left (1) goes, unit by unit, to the largest remainders (.75), earlier shares first where they are
equal. So the parts are integers and sum to the fee, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import msgspec

from ..codec import Address, Record

if TYPE_CHECKING:
    from ..manifest import Manifest

# roles
NODE = 0
CREATOR = 1
CONTRIBUTOR = 2
WHOLE_BPS = 10_000
MAX_SHARES = 64


class Share(Record, frozen=True):
    """One party's part of a fee, in basis points."""

    address: Address
    role: Annotated[int, msgspec.Meta(ge=NODE, le=CONTRIBUTOR)]
    bps: Annotated[int, msgspec.Meta(ge=1, le=WHOLE_BPS)]


@dataclass(frozen=True)
class SharePolicy:
    """The part of each role in a fee for an adapter, in basis points.

    The bare base has one role: all goes to the node's owner.
    """

    node_bps: int = 6_000
    creator_bps: int = 2_500
    contributors_bps: int = 1_500

    def __post_init__(self) -> None:
        if (
            min(self.node_bps, self.creator_bps, self.contributors_bps) < 0
            or self.node_bps + self.creator_bps + self.contributors_bps != WHOLE_BPS
        ):
            raise ValueError(
                f"the roles' parts must be 0 or more and sum to {WHOLE_BPS} basis points"
            )


def shares_for(policy: SharePolicy, owner: bytes, manifest: Manifest | None) -> tuple[Share, ...]:
    """Return the shares of an answer served by `owner`'s node, sorted as receipts want them.

    A manifest of None is the bare base. Contributors divide their part by the manifest's weights;
    where there are none, their part goes to the creator.
    """
    if manifest is None:
        return (Share(owner, NODE, WHOLE_BPS),)
    parts = _divide(policy.contributors_bps, [someone.weight for someone in manifest.contributors])
    bps: dict[tuple[bytes, int], int] = {}
    _add(bps, owner, NODE, policy.node_bps)
    _add(
        bps,
        manifest.creator_address,
        CREATOR,
        policy.creator_bps + policy.contributors_bps - sum(parts),
    )
    for someone, part in zip(manifest.contributors, parts, strict=True):
        _add(bps, someone.address, CONTRIBUTOR, part)
    return tuple(Share(address, role, part) for (address, role), part in sorted(bps.items()))


def find_fault(shares: Sequence[Share]) -> str | None:
    """Return what is wrong with the shares of a receipt, or None when nothing is."""
    if not 1 <= len(shares) <= MAX_SHARES:
        return f"there are {len(shares)} shares; a receipt has 1 to {MAX_SHARES}"
    keys = [(share.address, share.role) for share in shares]
    if any(left >= right for left, right in pairwise(keys)):
        return "shares must be sorted by address and role, each pair once"
    total = sum(share.bps for share in shares)
    return None if total == WHOLE_BPS else f"shares sum to {total} basis points, not {WHOLE_BPS}"


def split(amount: int, shares: Sequence[Share]) -> list[int]:
    """Divide an amount exactly: one integer per share, in their order, summing to `amount`."""
    return _divide(amount, [share.bps for share in shares])


def _divide(amount: int, weights: Sequence[int]) -> list[int]:
    """Divide by largest remainder: every part is within one unit of its exact value."""
    total = sum(weights)
    if not total:
        return []
    parts = [amount * weight // total for weight in weights]
    # By integer remainders, not fractions: every node must choose the same parts to the unit.
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(amount * weights[i] % total), i))
    for i in by_remainder[: amount - sum(parts)]:
        parts[i] += 1
    return parts


def _add(bps: dict[tuple[bytes, int], int], address: bytes, role: int, part: int) -> None:
    # A part of nothing is no share: receipts demand 1 basis point at least.
    if part:
        bps[address, role] = bps.get((address, role), 0) + part

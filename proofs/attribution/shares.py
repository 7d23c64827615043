"""Divides a fee: an adapter's terms and the policy → weighted shares → exact integers.

Decides each party's part; pays nobody and knows no channel. Everybody who checks a receipt derives
the same shares from the manifest of its adapter, or from the manifests in a cocktail; no receipt
declares them.

A fee of 7 for [6000, 2500, 1500] is 4.2 + 1.75 + 1.05: each gets its whole part (4, 1, 1) and what
is left (1) goes, unit by unit, to the largest remainders (.75), earlier shares first where they are
equal. So the parts are integers and sum to the fee, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from ..cocktail import MAX_PARENTS, MAX_PARTIES, MAX_WEIGHT, Cocktail
from ..codec import Address, Digest, Record
from ..manifest import MAX_CONTRIBUTORS, Manifest

# roles
NODE = 0
CREATOR = 1
CONTRIBUTOR = 2
WHOLE_BPS = 10_000
MAX_SHARES = MAX_PARTIES + 1
MAX_SHARE_WEIGHT = WHOLE_BPS * MAX_WEIGHT * MAX_PARENTS
MIN_SHARE_FEE = 100  # a receipt costs this much for each of its shares, whatever its tokens cost


class Share(Record, frozen=True):
    """One party's part of a fee, in proportion to the others': basis points, except in a cocktail,
    where they are multiplied by its parents' weights.
    """

    address: Address
    role: Annotated[int, msgspec.Meta(ge=NODE, le=CONTRIBUTOR)]
    weight: Annotated[int, msgspec.Meta(ge=1, le=MAX_SHARE_WEIGHT)]


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


POLICY = SharePolicy()
"""How every fee of a network is divided. Another one would make another network."""

Weight = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


class ParentTerms(Record, frozen=True):
    """Who made an adapter, and from whose data; `contributors` are (address, weight) in the
    manifest's order. `weight` is its part in a cocktail, without its sign.
    """

    weight: Annotated[int, msgspec.Meta(ge=1, le=MAX_WEIGHT)]
    creator: Address
    contributors: Annotated[
        tuple[tuple[Address, Weight], ...], msgspec.Meta(max_length=MAX_CONTRIBUTORS)
    ]


class AdapterTerms(Record, frozen=True):
    """What attribution reads in a manifest or cocktail: who is paid for the adapter, and which base
    it is for. A plain adapter is its only parent, with weight 1.
    """

    parents: Annotated[tuple[ParentTerms, ...], msgspec.Meta(min_length=1, max_length=MAX_PARENTS)]
    base: Digest

    @classmethod
    def of_one(
        cls, creator: bytes, contributors: tuple[tuple[bytes, int], ...], base: bytes
    ) -> AdapterTerms:
        """Return the terms of a plain adapter."""
        return cls((ParentTerms(1, creator, contributors),), base)


def terms_of(adapter: Manifest | Cocktail) -> AdapterTerms:
    """Return what attribution needs of a manifest or cocktail."""
    if isinstance(adapter, Manifest):
        return AdapterTerms.of_one(adapter.creator_address, _paid_by(adapter), adapter.base)
    parents = tuple(
        ParentTerms(abs(one.weight), one.parsed.creator_address, _paid_by(one.parsed))
        for one in adapter.parents
    )
    return AdapterTerms(parents, adapter.base)


def _paid_by(manifest: Manifest) -> tuple[tuple[bytes, int], ...]:
    return tuple((someone.address, someone.weight) for someone in manifest.contributors)


def shares_for(policy: SharePolicy, owner: bytes, terms: AdapterTerms | None) -> tuple[Share, ...]:
    """Return the shares of an answer served by `owner`'s node, sorted by address and role.

    Terms of None are the bare base. Contributors divide their part by the manifest's weights;
    where there are none, their part goes to the creator. The parents of a cocktail count by their
    weights.
    """
    if terms is None:
        return (Share(owner, NODE, WHOLE_BPS),)
    found: dict[tuple[bytes, int], int] = {}
    for parent in terms.parents:
        _add(found, owner, NODE, policy.node_bps * parent.weight)
        parts = _divide(policy.contributors_bps, [weight for _, weight in parent.contributors])
        creator_bps = WHOLE_BPS - policy.node_bps - sum(parts)
        _add(found, parent.creator, CREATOR, creator_bps * parent.weight)
        for (address, _), part in zip(parent.contributors, parts, strict=True):
            _add(found, address, CONTRIBUTOR, part * parent.weight)
    return tuple(Share(address, role, part) for (address, role), part in sorted(found.items()))


def fee(price: int, shares: Sequence[Share]) -> int:
    """Return what an answer costs whose tokens cost `price`: at least MIN_SHARE_FEE a share."""
    return max(price, MIN_SHARE_FEE * len(shares))


def award(amount: int, shares: Sequence[Share]) -> list[tuple[bytes, int]]:
    """Divide an amount among accounts: (address, part) in order of the shares, each address once.

    Who gets nothing of so small an amount is not named.
    """
    awarded: dict[bytes, int] = {}
    for share, part in zip(shares, split(amount, shares), strict=True):
        if part:
            awarded[share.address] = awarded.get(share.address, 0) + part
    return list(awarded.items())


def split(amount: int, shares: Sequence[Share]) -> list[int]:
    """Divide an amount exactly: one integer per share, in their order, summing to `amount`."""
    return _divide(amount, [share.weight for share in shares])


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


def _add(shares: dict[tuple[bytes, int], int], address: bytes, role: int, part: int) -> None:
    # A part of nothing is no share.
    if part:
        shares[address, role] = shares.get((address, role), 0) + part

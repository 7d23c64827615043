"""Divides a fee: an adapter's terms and the policy → weighted shares → exact integers.

Decides each party's part; pays nobody and knows no channel. Everybody who checks a receipt derives
the same shares from the manifest of its adapter, or from the manifests in a cocktail; no receipt
declares them. Where a manifest has attribution, a receipt may say what its answer drew on
(credit.py): that moves a part of the contributors' part among them, and nothing else.

A fee of 7 for [6000, 2500, 1500] is 4.2 + 1.75 + 1.05: each gets its whole part (4, 1, 1) and what
is left (1) goes, unit by unit, to the largest remainders (.75), earlier shares first where they are
equal. So the parts are integers and sum to the fee, always.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Annotated

import msgspec

from ..cocktail import MAX_PARENTS, MAX_PARTIES, MAX_WEIGHT, Cocktail
from ..codec import Address, Digest, Record
from ..manifest import MAX_CONTRIBUTORS, Manifest
from ..origin import WHOLE_EIGHTHS
from .blend import WHOLE_BPS, blend, divide
from .credit import NOTHING, Drawn, Parts

# roles
NODE = 0
CREATOR = 1
CONTRIBUTOR = 2
MAX_SHARES = MAX_PARTIES + 1
MAX_SHARE_WEIGHT = WHOLE_BPS * MAX_WEIGHT * MAX_PARENTS
MIN_SHARE_FEE = 100  # what an answer costs at least for each share, where nobody voted


class Share(Record, frozen=True):
    """One party's part of a fee, in proportion to the others': basis points, except in a cocktail,
    where they are multiplied by its parents' weights.
    """

    address: Address
    role: Annotated[int, msgspec.Meta(ge=NODE, le=CONTRIBUTOR)]
    weight: Annotated[int, msgspec.Meta(ge=1, le=MAX_SHARE_WEIGHT)]


class SharePolicy(Record, frozen=True):
    """How fees are divided under one `version` of a network's parameters (policies.py).

    Parts of the roles in a fee for an adapter, in basis points; what the two leave is the
    contributors'. The bare base has one role: all goes to the node's owner. `least_fee`: for each
    that may share a fee. `most_lambda`: eighths of the contributors' part that follow what an
    answer drew on, at most, whatever a manifest says.
    """

    node_bps: int = 6_000
    creator_bps: int = 2_500
    least_fee: int = MIN_SHARE_FEE
    most_lambda: int = WHOLE_EIGHTHS
    version: int = 0

    def __post_init__(self) -> None:
        if min(self.node_bps, self.creator_bps, self.contributors_bps) < 0:
            raise ValueError(f"the roles' parts must be 0 or more, {WHOLE_BPS} together")

    @property
    def contributors_bps(self) -> int:
        """What is left for the contributors."""
        return WHOLE_BPS - self.node_bps - self.creator_bps


POLICY = SharePolicy()
"""How fees are divided where nobody voted."""

Weight = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class ParentTerms(Record, frozen=True):
    """Who made an adapter, and from whose data; `contributors` are (address, weight) in the
    manifest's order. `weight` is its part in a cocktail, without its sign.

    `lambda_eighths` of the contributors' part follow what an answer drew on; 0: none of it does.
    """

    weight: Annotated[int, msgspec.Meta(ge=1, le=MAX_WEIGHT)]
    creator: Address
    contributors: Annotated[
        tuple[tuple[Address, Weight], ...], msgspec.Meta(max_length=MAX_CONTRIBUTORS)
    ]
    lambda_eighths: Annotated[int, msgspec.Meta(ge=0, le=WHOLE_EIGHTHS)] = 0

    @property
    def is_attributed(self) -> bool:
        """Return whether a receipt may say what its answer drew on here."""
        return self.lambda_eighths > 0


class AdapterTerms(Record, frozen=True):
    """What attribution reads in a manifest or cocktail: who is paid for the adapter, and which base
    it is for. A plain adapter is its only parent, with weight 1.
    """

    parents: Annotated[tuple[ParentTerms, ...], msgspec.Meta(min_length=1, max_length=MAX_PARENTS)]
    base: Digest

    @classmethod
    def of_one(
        cls,
        creator: bytes,
        contributors: tuple[tuple[bytes, int], ...],
        base: bytes,
        lambda_eighths: int = 0,
    ) -> AdapterTerms:
        """Return the terms of a plain adapter."""
        return cls((ParentTerms(1, creator, contributors, lambda_eighths),), base)

    @property
    def num_attributed(self) -> tuple[int | None, ...]:
        """Return how many contributors each parent can credit with an answer; None: it does not."""
        return tuple(
            len(parent.contributors) if parent.is_attributed else None for parent in self.parents
        )


def terms_of(adapter: Manifest | Cocktail) -> AdapterTerms:
    """Return what attribution needs of a manifest or cocktail."""
    parents = adapter.merged_of if isinstance(adapter, Manifest) else adapter.parents
    if isinstance(adapter, Manifest) and not parents:
        return AdapterTerms((_terms_of(adapter, 1),), adapter.base)
    terms = tuple(_terms_of(one.parsed, abs(one.weight)) for one in parents)
    return AdapterTerms(terms, adapter.base)


def _terms_of(manifest: Manifest, weight: int) -> ParentTerms:
    origin = manifest.made_of
    attribution = origin.attribution if origin else None
    return ParentTerms(
        weight,
        manifest.creator_address,
        tuple((someone.address, someone.weight) for someone in manifest.contributors),
        attribution.lambda_eighths if attribution else 0,
    )


def shares_for(
    policy: SharePolicy, owner: bytes, terms: AdapterTerms | None, drawn: Drawn = NOTHING
) -> tuple[Share, ...]:
    """Return the shares of an answer served by `owner`'s node, sorted by address and role.

    Terms of None are the bare base. Contributors divide their part by the manifest's weights and,
    as far as its λ says, by what was `drawn`; where there are none, their part goes to the creator.
    The parents of a cocktail, or of a merged adapter, count by their weights.
    """
    if terms is None:
        return (Share(owner, NODE, WHOLE_BPS),)
    found: dict[tuple[bytes, int], int] = {}
    for parent, parts_drawn in zip(terms.parents, drawn or ((),) * MAX_PARENTS, strict=False):
        _add(found, owner, NODE, policy.node_bps * parent.weight)
        parts = divide(policy.contributors_bps, _weights(policy, parent, parts_drawn))
        creator_bps = WHOLE_BPS - policy.node_bps - sum(parts)
        _add(found, parent.creator, CREATOR, creator_bps * parent.weight)
        for (address, _), part in zip(parent.contributors, parts, strict=True):
            _add(found, address, CONTRIBUTOR, part * parent.weight)
    return tuple(Share(address, role, part) for (address, role), part in sorted(found.items()))


def _weights(policy: SharePolicy, parent: ParentTerms, drawn: Parts) -> Sequence[int]:
    """Return by what the contributors of one parent divide their part."""
    standing = [weight for _, weight in parent.contributors]
    if not drawn:
        return standing
    bits = [0] * len(standing)
    for place, part in drawn:
        bits[place] = part
    return blend(bits, standing, _lambda(policy, parent), none_bits=0)


def _lambda(policy: SharePolicy, parent: ParentTerms) -> int:
    """Return how many eighths of its contributors' part follow what an answer drew on."""
    return min(parent.lambda_eighths, policy.most_lambda)


def parties_of(
    policy: SharePolicy, owner: bytes, terms: AdapterTerms | None
) -> tuple[tuple[bytes, int], ...]:
    """Return who may share a fee, whatever an answer draws on: (address, role), sorted.

    As many as they are, so much does an answer cost at least; so its price is known before it.
    """
    found = {(share.address, share.role) for share in shares_for(policy, owner, terms)}
    for parent in terms.parents if terms else ():
        if _lambda(policy, parent):
            found |= {(address, CONTRIBUTOR) for address, _ in parent.contributors}
    return tuple(sorted(found))


def fee(policy: SharePolicy, price: int, parties: Sized) -> int:
    """Return what an answer costs whose tokens cost `price`: at least the policy's least for each
    that may share it.
    """
    return max(price, policy.least_fee * len(parties))


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
    return divide(amount, [share.weight for share in shares])


def _add(shares: dict[tuple[bytes, int], int], address: bytes, role: int, part: int) -> None:
    # A part of nothing is no share.
    if part:
        shares[address, role] = shares.get((address, role), 0) + part

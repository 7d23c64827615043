"""Says whether an adapter's manifest pays those whose adapters it was made of what their
registrations ask, and writes contributors that do.

Normative text: docs/protocols/registry.md.

A registration's royalty is a part of what an answer's fee gives to the works that the adapter was
made of: of the contributors' part, whatever the answer drew on; of a merged adapter, of all but the
node's part. Knows no chain: registrations come as arguments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from math import ceil

from .errors import ManifestError
from .manifest import Contributor, Manifest
from .origin import WHOLE_EIGHTHS
from .registration import MAX_ROYALTY_BPS, Registration

_OWN_WEIGHTS = 100_000  # so fine are parts divided, at least


def find_unpaid(manifest: Manifest, parents: Sequence[Registration]) -> Registration | None:
    """Return the first parent that the manifest pays less than its royalty; None: it pays all.

    Its owner or its creator is paid. Nobody owes himself anything.
    """
    left = _pays(manifest)
    for parent in parents:
        if parent.allows(manifest.creator_address):
            continue
        due = _due(parent)
        for who in {parent.owner: None, parent.creator: None}:
            part = min(due, left[who])
            left[who] -= part
            due -= part
        if due:
            return parent
    return None


def _pays(manifest: Manifest) -> defaultdict[bytes, Fraction]:
    """Return each address's part of what goes to the works that it is made of, at the least."""
    paid: defaultdict[bytes, Fraction] = defaultdict(Fraction)
    if manifest.merged_of:
        whole = sum(abs(parent.weight) for parent in manifest.merged_of)
        for parent in manifest.merged_of:
            paid[parent.parsed.creator_address] += Fraction(abs(parent.weight), whole)
        return paid
    attribution = manifest.made_of.attribution if manifest.made_of else None
    moving = attribution.lambda_eighths if attribution else 0
    standing = Fraction(WHOLE_EIGHTHS - moving, WHOLE_EIGHTHS)
    whole = sum(someone.weight for someone in manifest.contributors)
    for someone in manifest.contributors:
        paid[someone.address] += standing * Fraction(someone.weight, whole)
    return paid


def pay_parents(
    contributors: Sequence[Contributor], creator: bytes, parents: Sequence[Registration]
) -> list[Contributor]:
    """Return contributors by whose weights the parents' owners get their royalties and the others
    what is left; where there are none, that is the creator's. Raises ManifestError where the
    royalties leave nothing.
    """
    owed = [one for one in parents if one.royalty_bps and not one.allows(creator)]
    whole = sum(map(_due, owed))
    if not owed:
        return list(contributors)
    if whole >= 1:
        raise ManifestError(
            "royalties",
            f"they ask for {whole * 100} % together, and leave nothing; build on other adapters",
        )
    own = list(contributors) or [Contributor(creator, "", "", "", weight=1)]
    total = sum(someone.weight for someone in own)
    factor = max(1, _OWN_WEIGHTS // total)
    # As much as all weights together, and one more for each that is rounded up.
    most = ceil((total * factor + len(owed)) / (1 - whole))
    kept = [
        Contributor(one.address, one.name, one.source, one.licence, weight=one.weight * factor)
        for one in own
    ]
    return kept + [
        Contributor(
            one.owner, "", f"royalty of {one.manifest.hex()}", "", weight=ceil(_due(one) * most)
        )
        for one in owed
    ]


def _due(parent: Registration) -> Fraction:
    return Fraction(parent.royalty_bps, MAX_ROYALTY_BPS)

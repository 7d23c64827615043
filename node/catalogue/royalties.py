"""Says of an adapter that it does not pay those whose adapters it was made of, and how it would."""

from __future__ import annotations

from proofs.manifest import Manifest
from proofs.registration import Registration

from ..errors import RoyaltyUnpaid


def unpaid_by(manifest: Manifest, parent: Registration) -> RoyaltyUnpaid:
    """Return what to say of a manifest that pays a parent less than its royalty."""
    if manifest.merged_of:
        mend = "give it at least that weight among all that are merged"
    else:
        mend = "name its owner among the contributors, with at least that part of their weights"
    return RoyaltyUnpaid(
        f"{manifest.name!r} is made of weights that are registered to 0x{parent.owner.hex()} for a"
        f" royalty of {parent.royalty_bps / 100:g} %, and its manifest pays less: {mend}"
    )

"""Step 8's look at the answer of two adapters at once: how its fee was divided, to the unit,
recomputed from the two manifests that the watcher fetched itself.
"""

from __future__ import annotations

from node.money.audit import Audit, shares_of
from proofs.attribution.shares import POLICY, award, shares_for, terms_of
from proofs.cocktail import WEIGHT_UNIT, make_cocktail, parse_cocktail
from proofs.codec import encode
from proofs.receipt import Receipt, digest_of

from . import cast
from .record import Step, require
from .scene import Scene


def show_split(scene: Scene, step: Step, audit: Audit) -> None:
    """Who of its parents' makers got what of the cocktail's fee."""
    cocktail = make_cocktail(
        {encode(scene.manifests[name]): weight for name, weight in cast.MIXED.items()}
    )
    [receipt] = [one for one in audit.receipts if one.adapter == digest_of(cocktail)]
    terms = terms_of(parse_cocktail(cocktail))
    shares = shares_for(POLICY, receipt.owner, terms, receipt.drawn)
    require(shares == shares_of(audit, receipt), "the batch says who made the cocktail's parents")
    parts = dict(award(receipt.amount, shares))
    require(sum(parts.values()) == receipt.amount, "nothing of its fee is left over")
    makers = {name: scene.manifests[name].creator_address for name in cast.MIXED}
    for name, weight in cast.MIXED.items():
        # 25 of 100 are a maker's where others gave data, in proportion to the weights
        exact = receipt.amount * POLICY.creator_bps * weight / (10_000 * sum(cast.MIXED.values()))
        require(
            abs(parts[makers[name]] - exact) < 1,
            f"the maker of {name} got {exact:.1f} of {receipt.amount}",
        )
    scene.stage.say(
        f"{cast.COCKTAIL} cost {cast.money(receipt.amount)}: "
        + ", ".join(
            f"{cast.money(parts[makers[name]])} to the maker of {name} ({weight / WEIGHT_UNIT:g})"
            for name, weight in cast.MIXED.items()
        )
        + f", {cast.money(_others(receipt, parts, set(makers.values())))} to"
        f" {len(parts) - len(makers)} others"
    )
    step.facts["cocktail"] = {
        "amount": receipt.amount,
        "makers": {name: parts[maker] for name, maker in makers.items()},
    }


def _others(receipt: Receipt, parts: dict[bytes, int], makers: set[bytes]) -> int:
    return receipt.amount - sum(parts[maker] for maker in makers)

"""Turns the bits that an answer drew on each contributor's text into what its receipt says.

    bits per contributor  →  credit  →  [[place, part], …]  for one parent of the adapter

A receipt names the contributors by their places in the manifest and gives each a part in
ten-thousandths; who is one too many stays paid by standing weights. Measures nothing (ladder.py)
and knows no manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from ..cocktail import MAX_PARENTS
from ..manifest import MAX_CONTRIBUTORS
from .blend import BIT, WHOLE_BPS, divide

MAX_CREDITED = 32
"""The most contributors that one receipt credits with an answer, of all its adapters together."""

Place = Annotated[int, msgspec.Meta(ge=0, lt=MAX_CONTRIBUTORS)]
Part = Annotated[int, msgspec.Meta(ge=1, le=WHOLE_BPS)]
Parts = Annotated[tuple[tuple[Place, Part], ...], msgspec.Meta(max_length=MAX_CREDITED)]
"""One parent's: by ascending places, parts that sum to WHOLE_BPS; empty: standing weights."""
Drawn = Annotated[tuple[Parts, ...], msgspec.Meta(max_length=MAX_PARENTS)]
"""One for each parent of the adapter, in its order; empty: standing weights for all."""

NOTHING: Drawn = ()


def most_credited(num_attributed: int) -> int:
    """Return how many contributors of one parent a receipt credits, where so many have
    attribution.
    """
    return MAX_CREDITED // max(num_attributed, 1)


def credit(bits: Sequence[int], none_bits: int, most: int) -> Parts:
    """Return the parts of the `most` contributors on whom an answer drew most.

    `bits` are in 1/65536, one for each contributor. Less than `none_bits` in all is nothing; of
    equal bits the earlier contributor is credited first.
    """
    if sum(bits) < none_bits * BIT:
        return ()
    largest = sorted(range(len(bits)), key=lambda place: (-bits[place], place))[:most]
    places = sorted(place for place in largest if bits[place])
    parts = divide(WHOLE_BPS, [bits[place] for place in places])
    return tuple((place, part) for place, part in zip(places, parts, strict=True) if part)


def join(parts: Sequence[Parts]) -> Drawn:
    """Return what a receipt says of all parents of its adapter."""
    return tuple(parts) if any(parts) else NOTHING


def find_fault(drawn: Drawn, num_contributors: Sequence[int | None]) -> str | None:
    """Say what is wrong with what a receipt says; None where nothing is.

    `num_contributors` has one number for each parent, None for one without attribution. Whether it
    is what the answer drew on cannot be seen from here.
    """
    if not drawn:
        return None
    if len(drawn) != len(num_contributors):
        return f"{len(drawn)} lists of parts for {len(num_contributors)} adapters"
    if not any(drawn):
        return "nothing is drawn on has one form, the empty array"
    attributed = sum(one is not None for one in num_contributors)
    for parts, number in zip(drawn, num_contributors, strict=True):
        if parts and (fault := _find_fault(parts, number, most_credited(attributed))):
            return fault
    return None


def _find_fault(parts: Parts, number: int | None, most: int) -> str | None:
    places = [place for place, _ in parts]
    if number is None:
        return "the manifest has no attribution, and parts are drawn"
    if len(parts) > most:
        return f"{len(parts)} contributors are credited; at most {most} can be"
    if places != sorted(set(places)) or places[-1] >= number:
        return f"the places {places} do not ascend below {number}"
    if (total := sum(part for _, part in parts)) != WHOLE_BPS:
        return f"the parts sum to {total}, not {WHOLE_BPS}"
    return None

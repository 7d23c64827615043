"""Reads and writes the text that names a cocktail, `law:0.7+verse:0.3`.

Knows no adapter: which ones the names mean, names.py decides. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from proofs.cocktail import MAX_PARENTS, MAX_WEIGHT, WEIGHT_UNIT

from ..errors import BadRequest

MAX_MIX_CHARS = 2048
_WEIGHTED = re.compile(r"(?P<name>.+):(?P<weight>-?[0-9.]{1,16})")


def parse_mix(text: str) -> list[tuple[str, int]] | None:
    """Return the names in a text with their weights in ten-thousandths; None where it names one
    adapter, without a weight.

    Raises BadRequest for a mix that nobody could serve.
    """
    if "+" not in text and not _WEIGHTED.fullmatch(text):
        return None
    if len(text) > MAX_MIX_CHARS:
        raise BadRequest(f"a cocktail's text has at most {MAX_MIX_CHARS} characters")
    parts = text.split("+")
    if len(parts) > MAX_PARENTS:
        raise BadRequest(f"a cocktail mixes at most {MAX_PARENTS} adapters")
    return [_parse_part(part.strip(), text) for part in parts]


def write_mix(parents: Sequence[tuple[str, int]]) -> str:
    """Return the text for names with weights in ten-thousandths."""
    return "+".join(f"{name}:{write_weight(weight)}" for name, weight in parents)


def write_weight(weight: int) -> str:
    """Return a weight in ten-thousandths as people write it."""
    return f"{weight / WEIGHT_UNIT:g}"


def _parse_part(part: str, text: str) -> tuple[str, int]:
    found = _WEIGHTED.fullmatch(part)
    name, given = (found["name"], found["weight"]) if found else (part, "1")
    if not name:
        raise BadRequest(
            f"model {text[:80]!r} names no adapter beside a '+'; write law:0.7+verse:0.3"
        )
    try:
        weight = Decimal(given) * WEIGHT_UNIT
    except InvalidOperation:
        raise BadRequest(f"{given!r} is no weight of {name!r}; write a number, law:0.7") from None
    if weight != int(weight) or not 0 < abs(weight) <= MAX_WEIGHT:
        raise BadRequest(
            f"the weight {given} of {name!r} is none: use -2 to 2, not 0, with at most four digits"
            " behind the point"
        )
    return name, int(weight)

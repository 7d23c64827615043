"""Declares what an aggregator and its witnesses say to one another.

Normative text: docs/protocols/delivery.md. Sends nothing.

    aggregator → witness    Attest(header)        "here is a header; its batch is a block of mine"
    witness → aggregator    Attested(signature) | Declined(reason)
"""

from __future__ import annotations

from typing import Annotated

import msgspec

PROTOCOL = "/lorikeet/witness/1"
HEADER_BYTES = 8 * 32  # its ABI encoding: eight words
ATTEST_DEADLINE_S = 60.0
MAX_REASON_CHARS = 500


class Attest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """To a witness: sign this header (its ABI encoding) if it follows from its batch."""

    header: Annotated[bytes, msgspec.Meta(min_length=HEADER_BYTES, max_length=HEADER_BYTES)]


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """What a witness says: an array that begins with the answer's name."""


class Attested(Answer, frozen=True, array_like=True):
    """It has the batch and every manifest, and recomputed the header from them."""

    signature: Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)]


class Declined(Answer, frozen=True, array_like=True):
    """It does not sign, and why."""

    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON_CHARS)]

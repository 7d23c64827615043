"""Declares what nodes and the aggregator say to one another about receipts.

Normative text: docs/protocols/delivery.md. Sends nothing.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from proofs.envelope import MAX_ENVELOPE_BYTES
from proofs.promise import Promise

TOPIC = "promises"
PROTOCOL = "/lorikeet/receipts/3"
MAX_DELIVERED = 64  # envelopes in one frame
MAX_PROMISED_BYTES = MAX_ENVELOPE_BYTES + 512
DELIVER_DEADLINE_S = 15.0
MAX_REASON_CHARS = 500

Reason = Annotated[str, msgspec.Meta(max_length=MAX_REASON_CHARS)]
EnvelopeBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_ENVELOPE_BYTES)]


class Deliver(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """To the aggregator: receipts with their vouchers, which are claimed."""

    envelopes: Annotated[list[EnvelopeBytes], msgspec.Meta(min_length=1, max_length=MAX_DELIVERED)]


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """What became of one envelope: an array that begins with the outcome's name."""


class Accepted(Outcome, frozen=True, array_like=True):
    """Taken, now or before."""

    promise: Promise


class Waiting(Outcome, frozen=True, array_like=True):
    """Good, but something has to come first; send it again."""

    reason: Reason


class Rejected(Outcome, frozen=True, array_like=True):
    """Not taken. Where `retryable`, the same bytes may be taken later: send them again."""

    reason: Reason
    retryable: bool


class Taken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """From the aggregator: an outcome for each envelope, in its order."""

    outcomes: Annotated[list[Accepted | Waiting | Rejected], msgspec.Meta(max_length=MAX_DELIVERED)]


class Promised(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """To everybody, by gossip: a receipt that the aggregator has promised to include.

    The aggregator signs for what passes here, so nobody else can make the network carry anything.
    """

    envelope: EnvelopeBytes
    promise: Promise

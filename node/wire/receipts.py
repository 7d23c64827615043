"""What nodes and the aggregator say to one another about receipts.

Normative text: docs/protocols/delivery.md. Sends nothing.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from proofs.envelope import MAX_ENVELOPE_BYTES
from proofs.promise import Promise

from .infer import Word

TOPIC = "receipts"
PROTOCOL = "/lorikeet/receipts/1"
MAX_DELIVERED = 64  # envelopes in one frame
DELIVER_DEADLINE_S = 15.0


class Deliver(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """To the aggregator: receipts with their vouchers."""

    envelopes: Annotated[
        list[Annotated[bytes, msgspec.Meta(max_length=MAX_ENVELOPE_BYTES)]],
        msgspec.Meta(min_length=1, max_length=MAX_DELIVERED),
    ]


class Taken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """From the aggregator, for each envelope: "promised", "waiting" or "rejected", the promise, and
    why not.
    """

    outcomes: Annotated[
        list[tuple[Word, Promise | None, Annotated[str, msgspec.Meta(max_length=500)]]],
        msgspec.Meta(max_length=MAX_DELIVERED),
    ]

"""Declares how a client without an engine has another node replay an answer that it bought.

Normative text: docs/protocols/attestation.md. Sends nothing, and decides nothing.

    client → node    AskReplay(…)
    node → client    Attested(…) | Declined(…)
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from proofs.attestation.record import MAX_ATTESTATION_BYTES, Opening
from proofs.receipt import MAX_BODY_BYTES

from .attestation import MAX_TOLD_BYTES
from .infer import Digest, Message, Signature, Text, decode_canonical, encode

PROTOCOL = "/lorikeet/replay/1"
MAX_ASKED_BYTES = MAX_ATTESTATION_BYTES
MAX_ANSWERED_BYTES = MAX_TOLD_BYTES + 1024


class AskReplay(Message, frozen=True, array_like=True):
    """Whether the adapter of a receipt made its answer, which is shown.

    `paid` is the digest of the receipt of an answer that the client bought of this node for it:
    one token, to a prompt of the question and the answer.
    """

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY_BYTES)]
    node_signature: Signature
    opening: Opening
    paid: Digest


class Attested(Message, frozen=True, array_like=True):
    """The verdict: an attestation that shows neither question nor answer."""

    attestation: Annotated[bytes, msgspec.Meta(max_length=MAX_TOLD_BYTES)]


class Declined(Message, frozen=True, array_like=True):
    """No verdict, and why."""

    reason: Text


def decode_ask(frame: bytes) -> AskReplay:
    """Parse what a client sent. Raises WireError."""
    return decode_canonical(frame, _ASK)


def decode_answer(frame: bytes) -> Attested | Declined:
    """Parse what a node sent. Raises WireError."""
    return decode_canonical(frame, _ANSWER)


__all__ = ["AskReplay", "Attested", "Declined", "decode_answer", "decode_ask", "encode"]

_ASK: msgspec.msgpack.Decoder[AskReplay] = msgspec.msgpack.Decoder(AskReplay)
_ANSWER: msgspec.msgpack.Decoder[Attested | Declined] = msgspec.msgpack.Decoder(Attested | Declined)

"""Declares what a client and a node say before the client chooses: what an answer would cost there,
and how soon it would begin.

Normative text: docs/protocols/quote.md. Sends nothing, and decides nothing.

    client → node    AskQuote(…)
    node → client    Quote(…) | NoQuote(code)
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from engine.messages import Residency
from proofs.cocktail import MAX_PARENTS

from ..errors import RefusalCode
from .infer import (
    MAX_PROMPT_TOKENS,
    MAX_TOKENS,
    Amount,
    Digest,
    Message,
    decode_canonical,
)

PROTOCOL = "/lorikeet/quote/3"
MAX_QUOTE_BYTES = 512  # of a frame, either way
MAX_COUNT = (1 << 32) - 1
MAX_MS = 600_000

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
Answers = Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_MS)]


class AskQuote(Message, frozen=True, array_like=True):
    """What would be asked: `adapter` is 32 zero bytes for the bare base; `parents` are the digests
    of what a cocktail mixes, empty for every other.

    `prompt_price` and `completion_price` are the most that the client pays for a token.
    """

    base: Digest
    adapter: Digest
    parents: Annotated[list[Digest], msgspec.Meta(max_length=MAX_PARENTS)]
    prompt_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_PROMPT_TOKENS)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
    prompt_price: Amount
    completion_price: Amount


class Quote(Message, frozen=True, array_like=True):
    """What the node expects now, and what it asks.

    `residency` is where the adapter is; `fetch_bytes` is what must be fetched where it is absent,
    None where that is not known. `first_token_ms` counts from the payment. The prices stand for
    `stands_ms` from when the quote comes. `answers` is how many the node announces to make at once,
    and makes. The rest is a guess.
    """

    residency: Residency
    fetch_bytes: Amount | None
    running: Count
    waiting: Count
    tokens_outstanding: Count
    prompt_price: Amount
    completion_price: Amount
    first_token_ms: Milliseconds
    stands_ms: Milliseconds
    answers: Answers


class NoQuote(Message, frozen=True, array_like=True):
    """The node would refuse, and why."""

    code: RefusalCode


FromNode = Quote | NoQuote

_ASK: msgspec.msgpack.Decoder[AskQuote] = msgspec.msgpack.Decoder(AskQuote)
_ANSWER: msgspec.msgpack.Decoder[FromNode] = msgspec.msgpack.Decoder(FromNode)


def encode(message: AskQuote | FromNode) -> bytes:
    """Give the only byte form of a message."""
    return msgspec.msgpack.encode(message)


def decode_ask(frame: bytes) -> AskQuote:
    """Parse what a client sent; WireError when it is no question of ours."""
    return decode_canonical(frame, _ASK)


def decode_answer(frame: bytes) -> FromNode:
    """Parse what a node sent; WireError when it is no answer of ours."""
    return decode_canonical(frame, _ANSWER)

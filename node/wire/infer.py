"""The infer protocol's messages, and how each side reads the other's bytes.

Normative text: docs/protocols/infer.md. Decides nothing about money.

One MessagePack array a frame, its first element the message's name. Digests and seeds are 32 bytes,
addresses 20, signatures 65.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, TypeVar

import msgspec

from engine.messages import MAX_LOGPROBS, MAX_STOP_IDS, TOKEN_IDS, Choosing
from proofs.cocktail import MAX_COCKTAIL_BYTES
from proofs.receipt import MAX_BODY_BYTES
from proofs.voucher import ChannelConfig

from ..api.answers import EndReason
from ..errors import RefusalCode

PROTOCOL = "/lorikeet/infer/7"
VERSION = 7
MAX_PROMPT_TOKENS = 32_768
MAX_TOKENS = 8_192
MAX_TIMINGS = 16
BEAT_S = 1.0  # a node that has nothing to say while it answers says so this often
PAY_TOKENS = 32  # how far ahead a client pays, and so the most that either side can lose

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Address = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
Signature = Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)]
Salt = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=TOKEN_IDS)]
Amount = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Text = Annotated[str, msgspec.Meta(max_length=1000)]
Word = Annotated[str, msgspec.Meta(max_length=32)]
Timings = Annotated[list[tuple[Word, float]], msgspec.Meta(max_length=MAX_TIMINGS)]


class WireError(Exception):
    """A frame is not one of the messages expected here."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """What all messages share: an immutable, tagged array."""


# --- client to node ---


class Resumed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where an answer goes on that another node began.

    `seed` is the sampling seed that was agreed on there; the last `num_answered` of `prompt_ids`
    are the answer so far, which is asked for and paid like any other prompt.
    """

    seed: Digest
    num_answered: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]


class Ask(Message, frozen=True, array_like=True):
    """What is asked.

    `adapter` is 32 zero bytes for the bare base; `cocktail` is empty unless `adapter` is one, whose
    bytes these are (proofs/cocktail.py). `channel` (x402's fields) pays; None asks for an
    unpaid answer.

    `logprobs`: how many of the likeliest ids to report beside each token; None reports nothing.
    `resumed` None begins a new answer. `attributed`: this client will recompute what the answer
    drew on, so the receipt may say it.
    """

    version: int
    base: Digest
    adapter: Digest
    cocktail: Annotated[bytes, msgspec.Meta(max_length=MAX_COCKTAIL_BYTES)]
    prompt_ids: Annotated[list[TokenId], msgspec.Meta(min_length=1, max_length=MAX_PROMPT_TOKENS)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
    terms: Choosing
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None
    stop_ids: Annotated[list[TokenId], msgspec.Meta(max_length=MAX_STOP_IDS)]
    seed_commitment: Digest
    client: Address
    channel: ChannelConfig | None
    resumed: Resumed | None
    attributed: bool


class Begin(Message, frozen=True, array_like=True):
    """Accept the offer: open the seed, and pay for the prompt and the first tokens.

    `salt` blinds the receipt's commitments.
    """

    client_seed: Digest
    salt: Salt
    payment: Pay | None


class Pay(Message, frozen=True, array_like=True):
    """Raise what this request may spend to `limit` (its own cost so far and to come); `amount` is
    the channel's new cumulative voucher.
    """

    limit: Amount
    amount: Amount
    signature: Signature


class Stop(Message, frozen=True, array_like=True):
    """End the answer now; what was generated is still settled."""


class Settle(Message, frozen=True, array_like=True):
    """The client's signature under the receipt that was just shown (`Done` or `Pending`)."""

    signature: Signature


# --- node to client ---


class Refusal(Message, frozen=True, array_like=True):
    """No, and why."""

    code: RefusalCode
    message: Text


class Pending(Message, frozen=True, array_like=True):
    """The channel's last receipt lacks the client's signature: settle it first."""

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY_BYTES)]
    node_signature: Signature


class Offer(Message, frozen=True, array_like=True):
    """The node's half of the seed and its terms.

    Prices per token; `paid` False asks nothing. Who shares the fee follows from `owner`, the
    adapter's manifest, the version of the network's `parameters` and, where `attributed`, what the
    answer will have drawn on.
    """

    node_seed: Digest
    paid: bool
    prompt_price: Amount
    completion_price: Amount
    owner: Address
    dtype: Annotated[bytes, msgspec.Meta(max_length=16)]
    started_at: Amount
    attributed: bool
    parameters: Amount


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One token's log-probability, and the likeliest ids with theirs, highest first."""

    logprob: float
    top: Annotated[list[tuple[TokenId, float]], msgspec.Meta(max_length=MAX_LOGPROBS)]


class Output(Message, frozen=True, array_like=True):
    """The next tokens of the answer, in order; `logprobs`, one for each, where they were asked for,
    else empty.

    One without tokens is a *beat*: the node is at work, and has nothing yet.
    """

    token_ids: Annotated[list[TokenId], msgspec.Meta(max_length=MAX_TOKENS)]
    logprobs: Annotated[list[TokenLogprobs], msgspec.Meta(max_length=MAX_TOKENS)]


class Done(Message, frozen=True, array_like=True):
    """The answer ended.

    `body` and `node_signature` are the receipt (empty and None when nothing is paid).
    """

    reason: EndReason
    neighbours: Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
    timings: Timings
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY_BYTES)]
    node_signature: Signature | None


class Settled(Message, frozen=True, array_like=True):
    """The receipt with both signatures is in the node's outbox."""


FromClient = Ask | Begin | Pay | Stop | Settle
FromNode = Refusal | Pending | Offer | Output | Done | Settled

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """Give the only byte form of a message."""
    return msgspec.msgpack.encode(message)


def decode_from_client(frame: bytes) -> FromClient:
    """Parse what a client sent; WireError when it is no message of ours."""
    return decode_canonical(frame, _CLIENT)


def decode_from_node(frame: bytes) -> FromNode:
    """Parse what a node sent; WireError when it is no message of ours."""
    return decode_canonical(frame, _NODE)


def expect(message: Message, kind: type[M]) -> M:
    """Narrow a message to the one that must come now."""
    if not isinstance(message, kind):
        raise WireError(f"expected {kind.__name__}, got {type(message).__name__}")
    return message


def seed_of(ask: Ask, node_seed: bytes, client_seed: bytes) -> bytes:
    """The sampling seed of a new answer, which neither side can choose alone."""
    return hashlib.sha256(
        b"lorikeet seed" + client_seed + node_seed + hashlib.sha256(encode(ask)).digest()
    ).digest()


_T = TypeVar("_T")
_CLIENT: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
_NODE: msgspec.msgpack.Decoder[FromNode] = msgspec.msgpack.Decoder(FromNode)


def decode_canonical(frame: bytes, decoder: msgspec.msgpack.Decoder[_T]) -> _T:
    """Parse a frame in the only byte form of what it says; WireError for any other."""
    try:
        message = decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WireError(str(error)) from error
    if msgspec.msgpack.encode(message) != frame:
        raise WireError("the frame is not in canonical form")
    return message

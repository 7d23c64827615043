"""The messages of `/lorikeet/lookup/1`, their bounds and their codec (docs/protocols/lookup.md).

One MessagePack array a frame, its first element the message's name. Reads and writes no stream, and
does not know what is looked up.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from ..errors import InvalidLookup

PROTOCOL = "/lorikeet/lookup/1"
MAX_LOOKUP_BYTES = 512
MAX_KEY_BYTES = 256
MAX_FOUND = 20
MAX_FOUND_BYTES = 96 << 10  # of all that is found together
MAX_ANSWER_BYTES = MAX_FOUND_BYTES + 1024
MAX_ADDRESSES = 8
MAX_ADDRESS_CHARS = 512
MAX_AGE_S: Final = (1 << 32) - 1
UNKNOWN_KIND: Final = "unknown_kind"
MALFORMED: Final = "malformed"
BUSY: Final = "busy"

KindName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z_-]{0,31}\Z")]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_AGE_S)]
Address = Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS_CHARS)]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """What all messages share: an immutable, tagged array."""


class Lookup(Message, frozen=True, array_like=True):
    """What is looked up. What the other side learnt within `max_age_s` will do; 0: it is to ask the
    network now.
    """

    kind: KindName
    key: Annotated[bytes, msgspec.Meta(max_length=MAX_KEY_BYTES)]
    max_age_s: Seconds


class Found(Message, frozen=True, array_like=True):
    """What was found, best first, each in the bytes of its kind; nothing where nobody knows
    anything. It was learnt `age_s` ago.
    """

    age_s: Seconds
    found: Annotated[list[bytes], msgspec.Meta(max_length=MAX_FOUND)]


class Refused(Message, frozen=True, array_like=True):
    """Why nothing was looked up. Of these only a busy node may answer the same later."""

    code: Literal["unknown_kind", "malformed", "busy"]
    text: Annotated[str, msgspec.Meta(max_length=300)]


class Provider(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who says to have the bytes of a CID, and where that peer is said to be."""

    peer_id: Annotated[str, msgspec.Meta(max_length=64)]
    addresses: Annotated[list[Address], msgspec.Meta(max_length=MAX_ADDRESSES)]


_Shape = TypeVar("_Shape")
_ANSWERS: Any = Found | Refused  # no type to a checker


def encode(message: Message | Provider) -> bytes:
    """Return a message's bytes."""
    return msgspec.msgpack.encode(message)


def decode_lookup(frame: bytes) -> Lookup:
    """Read what is asked. Raises InvalidLookup."""
    return _decode(frame, Lookup, MAX_LOOKUP_BYTES)


def decode_answer(frame: bytes) -> Found | Refused:
    """Read an answer. Raises InvalidLookup."""
    answer: Found | Refused = _decode(frame, _ANSWERS, MAX_ANSWER_BYTES)
    return answer


def decode_provider(found: bytes) -> Provider:
    """Read one of the providers that were found. Raises InvalidLookup."""
    return _decode(found, Provider, MAX_FOUND_BYTES)


def _decode(data: bytes, shape: type[_Shape], max_bytes: int) -> _Shape:
    if len(data) > max_bytes:
        raise InvalidLookup(f"{len(data)} bytes are over the limit of {max_bytes}")
    try:
        return msgspec.msgpack.decode(data, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidLookup(f"not a message of {PROTOCOL}: {error}") from error

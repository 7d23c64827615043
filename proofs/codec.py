"""Defines the one byte form of everything that is signed or hashed: MessagePack arrays of integers,
bytes and arrays, each in its shortest form.

msgspec checks the schema but accepts what is longer than needed; so decoding ends by encoding again
and comparing. Knows no message.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

Address = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=33, max_length=33)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Amount = Annotated[
    int, msgspec.Meta(ge=0, le=(1 << 63) - 1)
]  # of the fee token's smallest unit; also numbers and times that only grow

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all signed things: an immutable array of fixed length."""


class NotCanonical(ValueError):
    """These bytes are too many, break the schema, or are not the one form of what they say.

    `rule` is size, schema or canonical.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def encode(value: object) -> bytes:
    """Return the one byte form of a record."""
    return _ENCODER.encode(value)


def decode(data: bytes, decoder: msgspec.msgpack.Decoder[T], max_bytes: int) -> T:
    """Decode a record from bytes nobody vouched for.

    Raises NotCanonical unless they are exactly what `encode` gives.
    """
    if len(data) > max_bytes:
        raise NotCanonical("size", f"{len(data)} bytes; at most {max_bytes} are allowed")
    try:
        value = decoder.decode(data)
        again = _ENCODER.encode(value)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise NotCanonical("schema", str(error)) from error
    if again != data:
        raise NotCanonical("canonical", "these bytes are a longer form of what they say")
    return value


_ENCODER = msgspec.msgpack.Encoder()

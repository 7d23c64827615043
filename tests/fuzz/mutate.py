"""Spoils valid messages: as bytes, and as what they are (MessagePack, protobuf, JSON).

Pure: the randomness comes in, so a seed gives the same bytes again. Knows no message.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgpack
from libp2p.utils.varint import encode_uvarint

Form = Literal["bytes", "text", "msgpack", "protobuf", "delimited", "json"]
"""What a message is: `delimited` is protobuf behind its length."""

_EDGES = (1, 7, 8, 15, 16, 20, 24, 31, 32, 53, 63, 64)
BOUNDS = (0, 1, *(2**bits - 1 for bits in _EDGES), *(2**bits for bits in _EDGES[:-1]), 2**20 + 1)
DEPTHS = (2, 40, 1000, 20_000)
MAX_GROWN_BYTES = 1 << 20
LONG = (40, 300, 5000)


def spoil(rng: random.Random, seeds: Sequence[bytes], form: Form) -> bytes:
    """Make one input out of valid messages: mostly spoilt as what it is, else as bytes; at times
    both, at times not at all.
    """
    data = rng.choice(seeds)
    if rng.random() < 0.6:
        data = _AS[form](rng, data)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        data = rng.choice(_BYTE_WAYS)(rng, data, seeds)
    return data[:MAX_GROWN_BYTES]


# --- bytes ---


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 8, 32, 200)))


def _flip(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 3))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    return data[: rng.randint(0, len(data))]


def _drop(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[start:end] * rng.choice((2, 3, *LONG)) + data[end:]


def _splice(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _insert(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, _ = _span(rng, data)
    return data[:start] + rng.randbytes(rng.choice((1, 4, 33))) + data[start:]


def _bound(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Write a number that is a bound somewhere, as lengths are written."""
    start, _ = _span(rng, data)
    size = rng.choice((1, 2, 4, 8))
    number = rng.choice(BOUNDS) % (1 << 8 * size)
    written = number.to_bytes(size, rng.choice(("big", "little")))
    return data[:start] + written + data[start + size :]


def _nest_raw(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    opening = rng.choice((b"\x91", b"\x81\xa0", b"[", b'{"a":', b"\x0a\x7f", b"\x0b"))
    return data[:start] + opening * rng.choice(DEPTHS) + data[end:]


_BYTE_WAYS: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    _flip,
    _truncate,
    _drop,
    _repeat,
    _splice,
    _insert,
    _bound,
    _nest_raw,
)


# --- trees: MessagePack and JSON ---


def _odd_value(rng: random.Random, value: Any) -> Any:
    """Something else in a value's place: of another type, at a bound, longer, deeper."""
    ways = [
        lambda: rng.choice(BOUNDS) * rng.choice((1, 1, -1)) if value != 2**64 - 1 else 0,
        lambda: rng.choice((None, True, False, "", "é\0/..", b"", b"\xff", [], {}, 0.0, -1)),
        lambda: rng.choice((float("nan"), float("inf"), -0.0, 1e308, 5e-324)),
        lambda: _nested(rng.choice(DEPTHS[:3])),
    ]
    if isinstance(value, (str, bytes, list)):
        ways += [lambda: value + value[-1:], lambda: value[:-1], lambda: value * rng.choice(LONG)]
    if isinstance(value, int) and not isinstance(value, bool):
        ways += [lambda: value + 1, lambda: -value, lambda: float(value), lambda: str(value)]
    return rng.choice(ways)()


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(min(depth, 400)):  # what writes it must not fall first; `_nest_raw` goes deeper
        value = [value]
    return value


def _change_tree(rng: random.Random, value: Any) -> Any:
    """Change one place of a tree."""
    if isinstance(value, list) and value and rng.random() < 0.85:
        changed = list(value)
        place = rng.randrange(len(changed))
        if rng.random() < 0.7:
            changed[place] = _change_tree(rng, changed[place])
        else:
            _change_list(rng, changed, place)
        return changed
    if isinstance(value, dict) and value and rng.random() < 0.85:
        changed_map = dict(value)
        key = rng.choice(list(changed_map))
        if rng.random() < 0.8:
            changed_map[key] = _change_tree(rng, changed_map[key])
        else:
            changed_map[rng.choice(("r", "name", "é", str(key) * 2))] = changed_map.pop(key)
        return changed_map
    return _odd_value(rng, value)


def _change_list(rng: random.Random, values: list[Any], place: int) -> None:
    way = rng.randrange(4)
    if way == 0:
        del values[place]
    elif way == 1:
        values.insert(place, values[place])
    elif way == 2:
        values[place:place] = [values[place]] * rng.choice(LONG)
    else:
        rng.shuffle(values)


def _as_msgpack(rng: random.Random, data: bytes) -> bytes:
    try:
        tree = msgpack.unpackb(data, strict_map_key=False)
        return bytes(msgpack.packb(_change_tree(rng, tree)))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return data


def _as_json(rng: random.Random, data: bytes) -> bytes:
    try:
        changed = _change_tree(rng, json.loads(data))
        text = json.dumps(changed, default=lambda raw: raw.decode("latin-1"))
    except (ValueError, TypeError, RecursionError):
        return data
    if rng.random() < 0.2:
        numbers = (
            "1e999",
            "-1e999",
            "NaN",
            "Infinity",
            "9" * 400,
            "9" * 5000,
            "1e-999",
            "1.5",
            "0x10",
        )
        found = list(re.finditer(r"\d+(\.\d+)?", text))
        if found:
            start, end = rng.choice(found).span()
            text = text[:start] + rng.choice(numbers) + text[end:]
    return text.encode()


# --- protobuf ---

_Field = tuple[int, int, Any]  # number, wire type, value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> list[_Field]:
    """Take a message apart. Raises IndexError, ValueError where it is none."""
    found: list[_Field] = []
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: Any
        if kind == 0:
            value, at = _read_varint(data, at)
        elif kind == 2:
            size, at = _read_varint(data, at)
            if at + size > len(data):
                raise ValueError("cut")
            value, at = data[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        else:
            raise ValueError("no such kind")
        found.append((number, kind, value))
    return found


def _put(fields: Sequence[_Field]) -> bytes:
    parts = []
    for number, kind, value in fields:
        body = value if kind != 0 else encode_uvarint(value)
        if kind == 2:
            body = encode_uvarint(len(value)) + value
        parts.append(encode_uvarint(number << 3 | kind) + body)
    return b"".join(parts)


def _as_protobuf(rng: random.Random, data: bytes) -> bytes:
    try:
        fields = _fields(data)
    except (IndexError, ValueError):
        return data
    if not fields:
        return data
    place = rng.randrange(len(fields))
    number, kind, value = fields[place]
    way = rng.randrange(6)
    if way == 0:
        del fields[place]
    elif way == 1:
        fields[place:place] = [fields[place]] * rng.choice((1, *LONG))
    elif way == 2:
        fields[place] = (rng.choice((number + 1, 1, 15, 2**29 - 1)), kind, value)
    elif kind == 2:
        inner = _as_protobuf(rng, value)
        odd = (b"", value + b"\0", value * rng.choice(LONG), rng.randbytes(40), inner, inner)
        fields[place] = (number, kind, rng.choice(odd))
    elif kind == 0:
        fields[place] = (number, kind, rng.choice(BOUNDS))
    return _put(fields)


def _as_delimited(rng: random.Random, data: bytes) -> bytes:
    try:
        size, at = _read_varint(data, 0)
    except IndexError:
        return data
    body = _as_protobuf(rng, data[at : at + size])
    claimed = len(body) if rng.random() < 0.8 else rng.choice(BOUNDS)
    return encode_uvarint(claimed) + body


def _as_bytes(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(_BYTE_WAYS)(rng, data, [data])


_AS: dict[Form, Callable[[random.Random, bytes], bytes]] = {
    "bytes": _as_bytes,
    "text": _as_bytes,
    "msgpack": _as_msgpack,
    "protobuf": _as_protobuf,
    "delimited": _as_delimited,
    "json": _as_json,
}

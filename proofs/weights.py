"""Names what an adapter does to its base, whatever file it lies in: a digest over its tensors'
normal form, and how alike two adapters are where the digests differ.

Normative text: docs/protocols/registry.md, which says what the digest is the same under, and what
not. Knows no file and no configuration: who reads them gives parts.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
LARGEST_HALF = 65_504.0
"""The largest number of float16; a larger one counts as this."""


class NoWeights(Exception):
    """An adapter whose tensors have no digest: numbers that are not finite, or nothing at all."""


@dataclass(frozen=True)
class Pair:
    """Two halves whose product is added to a matrix: scale * b @ a; a is [rank, in], b [out,
    rank].
    """

    a: Floats
    b: Floats
    scale: float


@dataclass(frozen=True)
class Plain:
    """A tensor that stands for itself, in runs of its rows; `scale` multiplies one that is added to
    something, None is of one that takes something's place.
    """

    shape: tuple[int, ...]
    rows: Iterable[Floats]
    scale: float | None = None


Part = Pair | Plain
Rounding = Callable[[Floats], Floats]
Hashes = tuple[bytes, bytes]
"""Of a part, in the order of ROUNDINGS."""


@dataclass(frozen=True)
class WeightsDigest:
    """Both digests of one adapter, 32 bytes each: of its numbers as bfloat16 and as float16.

    Files of which one was cast from the other, to any of float32, bfloat16 and float16 in one step,
    have one of them in common.
    """

    brain: bytes
    half: bytes


def digest_weights(parts: Iterable[tuple[str, Part]], settings: bytes = b"") -> WeightsDigest:
    """Digest an adapter's parts, by the modules' names, each once, in any order; `settings` are
    what else decides how they are applied.

    Raises NoWeights.
    """
    found: list[tuple[bytes, Hashes]] = []
    for name, part in parts:
        hashes = _hash_part(part)
        if hashes is not None:
            found.append((name.encode(), hashes))
    if not found:
        raise NoWeights("all its changes are zero")
    found.sort()
    brain, half = (
        _hash_parts(kind, settings, [(name, hashes[place]) for name, hashes in found])
        for place, kind in enumerate(ROUNDINGS)
    )
    return WeightsDigest(brain, half)


def round_to_brain(values: Floats) -> Floats:
    """Round to the nearest bfloat16, ties to even. Raises NoWeights for what is not finite."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = ((bits + up) & np.uint32(0xFFFF0000)).view(np.float32)
    if not (np.isfinite(values).all() and np.isfinite(rounded).all()):
        raise NoWeights("it holds numbers that are not finite in bfloat16")
    return rounded


def round_to_half(values: Floats) -> Floats:
    """Round to the nearest float16, ties to even; what is larger than any becomes the largest."""
    clipped = np.clip(values, -LARGEST_HALF, LARGEST_HALF)
    return clipped.astype(np.float16).astype(np.float32)


ROUNDINGS: Mapping[str, Rounding] = {"brain": round_to_brain, "half": round_to_half}


def _hash_parts(kind: str, settings: bytes, hashed: list[tuple[bytes, bytes]]) -> bytes:
    whole = hashlib.sha256(b"lorikeet weights 1\0" + kind.encode() + b"\0")
    whole.update(struct.pack("<I", len(settings)) + settings)
    for name, digest in hashed:
        whole.update(struct.pack("<I", len(name)) + name + digest)
    return whole.digest()


def _hash_part(part: Part) -> Hashes | None:
    """Hash a part under each rounding; None where it changes nothing."""
    if isinstance(part, Pair):
        return _hash_pair(part)
    if part.scale is not None:
        column = np.concatenate([run.reshape(-1) for run in part.rows])
        return _hash_pair(Pair(np.ones((1, 1), np.float32), column[:, None], part.scale))
    head = b"plain" + struct.pack(f"<{1 + len(part.shape)}Q", len(part.shape), *part.shape)
    brain, half = (hashlib.sha256(head) for _ in ROUNDINGS)
    for run in part.rows:
        brain.update(_bytes_of(round_to_brain(run)))
        half.update(_bytes_of(round_to_half(run)))
    return brain.digest(), half.digest()


def _hash_pair(pair: Pair) -> Hashes | None:
    brain = _hash_product(pair, round_to_brain)
    # What float16 is too coarse for has one hash, lest all that small have the same.
    return None if brain is None else (brain, _hash_product(pair, round_to_half) or brain)


def _hash_product(pair: Pair, rounding: Rounding) -> bytes | None:
    """Hash a product as the multiset of its summands of rank one, each in its normal form."""
    mantissa, exponent = _split_scale(pair.scale)
    rows, row_exponents = _normal_rows(rounding(pair.a))
    columns, column_exponents = _normal_rows(rounding(pair.b.T))
    if mantissa < 0:
        columns = -columns
    flipped = _first_is_negative(rows)
    rows = np.where(flipped[:, None], -rows, rows)
    columns = np.where(flipped[:, None], -columns, columns)
    exponents = row_exponents + column_exponents + exponent
    counts = mantissa != 0
    summands = sorted(
        hashlib.sha256(
            struct.pack("<if", exponents[i], abs(mantissa))
            + _bytes_of(rows[i])
            + _bytes_of(columns[i])
        ).digest()
        for i in range(len(rows))
        if counts and rows[i].any() and columns[i].any()
    )
    if not summands:
        return None
    head = b"pair" + struct.pack("<QQ", pair.a.shape[1], pair.b.shape[0])
    return hashlib.sha256(head + b"".join(summands)).digest()


def _split_scale(scale: float) -> tuple[float, int]:
    """Split a factor into m * 2^e with 0.5 ≤ |m| < 1, m rounded to float32."""
    if not math.isfinite(scale):
        raise NoWeights("its scale is not finite")
    mantissa, exponent = math.frexp(scale)
    rounded, carry = math.frexp(float(np.float32(mantissa)))
    return rounded, exponent + carry


def _normal_rows(values: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Multiply each row by the power of two that brings its largest number into [0.5, 1)."""
    _, exponents = np.frexp(np.abs(values).max(axis=1))
    return np.ldexp(values, -exponents[:, None]).astype(np.float32), exponents.astype(np.int64)


def _first_is_negative(rows: Floats) -> npt.NDArray[np.bool_]:
    first = np.argmax(rows != 0, axis=1)
    negative: npt.NDArray[np.bool_] = np.less(rows[np.arange(len(rows)), first], 0)
    return negative


def _bytes_of(values: Floats) -> bytes:
    """Write numbers as little-endian float32; there is one zero."""
    return (values + np.float32(0)).astype("<f4").tobytes()


# ── how alike ──


@dataclass(frozen=True)
class Likeness:
    """How alike two adapters' products are.

    whole: the cosine of all that they add, taken as one vector; 1 is the same but for strength.
    least: the lowest cosine of a module that both change; modules: how many those are.
    strength: how much longer the first one's vector is.
    """

    whole: float
    least: float
    modules: int
    strength: float


def compare_weights(one: Mapping[str, Pair], other: Mapping[str, Pair]) -> Likeness:
    """Compare what two adapters add to a base, scales included, without building the products.

    Raises NoWeights where one of them adds nothing.
    """
    lengths = [
        math.sqrt(sum(inner_product(pair, pair) for pair in pairs.values()))
        for pairs in (one, other)
    ]
    if not all(length > 0 and math.isfinite(length) for length in lengths):
        raise NoWeights("an adapter adds nothing to any matrix")
    shared = [name for name in one if name in other and _fits(one[name], other[name])]
    inner = {name: inner_product(one[name], other[name]) for name in shared}
    cosines = [_cosine(one[name], other[name], inner[name]) for name in shared]
    return Likeness(
        whole=sum(inner.values()) / (lengths[0] * lengths[1]),
        least=min(cosines, default=0.0),
        modules=len(shared),
        strength=lengths[0] / lengths[1],
    )


def inner_product(one: Pair, other: Pair) -> float:
    """Return the sum over all entries of (s b a) * (s' b' a'), by matrices of rank by rank."""
    left = one.b.astype(np.float64).T @ other.b.astype(np.float64)
    right = one.a.astype(np.float64) @ other.a.astype(np.float64).T
    return float((left * right).sum()) * one.scale * other.scale


def _fits(one: Pair, other: Pair) -> bool:
    return bool(one.a.shape[1] == other.a.shape[1] and one.b.shape[0] == other.b.shape[0])


def _cosine(one: Pair, other: Pair, inner: float) -> float:
    length = math.sqrt(max(0.0, inner_product(one, one) * inner_product(other, other)))
    return inner / length if length > 0 else 0.0

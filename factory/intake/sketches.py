"""A contribution in a kilobyte: the 128 least of its shingles, which say how much two have in
common. Makes and compares; knows no datanet.

    ["lorikeet sketch", 1, number of distinct shingles, the least of them as u64 little-endian]

The least k of two sets hold the least k of their union, so the share of those that both have
estimates the common part (Broder's bottom-k form of MinHash), to about ± 4 points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np

from proofs.codec import Count, NotCanonical, Record, decode, encode

from .errors import Broken
from .words import Hashes

SKETCH_SHINGLES = 128
MAX_SKETCH_BYTES = 2048


class Sketch(Record, frozen=True):
    """The bytes of a sketch, read."""

    kind: Literal["lorikeet sketch"]
    version: Literal[1]
    num_shingles: Count
    least: Annotated[bytes, msgspec.Meta(max_length=8 * SKETCH_SHINGLES)]


def sketch_of(by_document: Sequence[Hashes]) -> bytes:
    """Return the sketch of documents by their shingles."""
    together = np.unique(np.concatenate(by_document)) if by_document else np.empty(0, np.uint64)
    least = together[:SKETCH_SHINGLES].astype("<u8").tobytes()
    return encode(Sketch("lorikeet sketch", 1, len(together), least))


def share_in(mine: bytes, theirs: bytes) -> int:
    """Return what part of `mine` is also in `theirs`, in basis points, as sketches estimate it.

    Raises Broken.
    """
    a = _read(mine)
    b = _read(theirs)
    if not a.num_shingles or not b.num_shingles:
        return 0
    least_a = np.frombuffer(a.least, "<u8")
    least_b = np.frombuffer(b.least, "<u8")
    union = np.union1d(least_a, least_b)[:SKETCH_SHINGLES]
    num_common = len(np.intersect1d(np.intersect1d(union, least_a), least_b))
    # j = common / union, and union = (a + b) / (1 + j)
    both = num_common * (a.num_shingles + b.num_shingles) // (len(union) + num_common)
    return min(both * 10_000 // a.num_shingles, 10_000)


def _read(data: bytes) -> Sketch:
    try:
        sketch = decode(data, _DECODER, MAX_SKETCH_BYTES)
    except NotCanonical as error:
        raise Broken(f"this is no sketch ({error}); make it anew from the documents") from error
    if len(sketch.least) != 8 * min(sketch.num_shingles, SKETCH_SHINGLES):
        raise Broken("this sketch is cut off; make it anew from the documents")
    return sketch


_DECODER = msgspec.msgpack.Decoder(Sketch)

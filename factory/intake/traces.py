"""What is kept of a contribution to compare later ones with: digests of its documents' words, and
its shingles with the number of its documents that hold each.

    "lorikeet trace 1" to 24 bytes with zeros | u32 documents | u32 shingles | digests 32 each
    | shingles u64, ascending | counts u16           all little-endian; docs/protocols/intake.md

Anybody makes the same bytes from the published text. Compares nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import Broken
from .words import Hashes, Shingles, words_digest, words_of

MAX_DOCUMENTS = 4096
MAX_SHINGLES = 16 << 20

_HEAD = b"lorikeet trace 1".ljust(24, b"\0")
_COUNTS = struct.Struct("<II")
_START = len(_HEAD) + _COUNTS.size


@dataclass(frozen=True)
class Trace:
    """Digests by document; shingles uint64 ascending, and in how many documents each is."""

    digests: Sequence[bytes]
    shingles: Hashes
    counts: npt.NDArray[np.uint16]


def trace_texts(documents: Iterable[bytes]) -> bytes:
    """Return the trace of documents given as clean UTF-8."""
    numbering = Shingles()
    digests = []
    parts = []
    for text in documents:
        words = words_of(text.decode())
        digests.append(words_digest(words))
        parts.append(numbering.of(words))
    return pack_trace(digests, parts)


def pack_trace(digests: Sequence[bytes], by_document: Sequence[Hashes]) -> bytes:
    """Return the trace of documents whose words are numbered already."""
    together = np.concatenate(by_document) if by_document else np.empty(0, np.uint64)
    shingles, counts = np.unique(together, return_counts=True)
    few = np.minimum(counts, 0xFFFF).astype("<u2")
    head = _HEAD + _COUNTS.pack(len(digests), len(shingles))
    return b"".join([head, *digests, shingles.astype("<u8").tobytes(), few.tobytes()])


def open_trace(path: Path) -> Trace:
    """Map a trace from a file. Raises Broken."""
    try:
        data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise Broken(f"{path} is no trace ({error}); make it anew from the documents") from error
    head = bytes(data[:_START])
    if not head.startswith(_HEAD) or len(head) != _START:
        raise Broken(f"{path} is no trace; make it anew from the documents")
    num_documents, num_shingles = _COUNTS.unpack(head[len(_HEAD) :])
    after_digests = _START + 32 * num_documents
    after_shingles = after_digests + 8 * num_shingles
    too_many = num_documents > MAX_DOCUMENTS or num_shingles > MAX_SHINGLES
    if too_many or len(data) != after_shingles + 2 * num_shingles:
        raise Broken(f"{path} is cut off or too long; make it anew from the documents")
    digests = bytes(data[_START:after_digests])
    return Trace(
        [digests[place : place + 32] for place in range(0, len(digests), 32)],
        data[after_digests:after_shingles].view("<u8"),
        data[after_shingles:].view("<u2"),
    )

"""Names the block protocol, its bounds (docs/protocols/blocks.md) and the codec of its request
frame.

Reads and writes no stream.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..cid import DIGEST_BYTES, Cid
from ..errors import InvalidInput

PROTOCOL = "/lorikeet/blocks/1"
BLOCK_BYTES = 256 << 10  # how files are cut; the last block of a file is shorter
MAX_BLOCK_BYTES = 1 << 20
MAX_REQUEST_BLOCKS = 64
MAX_REQUEST_BYTES = MAX_REQUEST_BLOCKS * DIGEST_BYTES
ABSENT = b""  # the answer for a block that is not here; no block is empty


def encode_request(cids: Iterable[Cid]) -> bytes:
    """Encode one request frame: the digests, one after the other."""
    return b"".join(cid.digest for cid in cids)


def decode_request(frame: bytes) -> list[Cid]:
    """Decode a request frame into its CIDs. Raises InvalidInput."""
    if not frame or len(frame) > MAX_REQUEST_BYTES or len(frame) % DIGEST_BYTES:
        raise InvalidInput(
            f"a block request is 1 to {MAX_REQUEST_BLOCKS} digests of {DIGEST_BYTES} bytes, not"
            f" {len(frame)} bytes"
        )
    return [
        Cid(frame[start : start + DIGEST_BYTES]) for start in range(0, len(frame), DIGEST_BYTES)
    ]

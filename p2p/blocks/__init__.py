"""Blocks by hash: keeps them (store), gives them (server), fetches them from several peers at once
(exchange decides, client acts).

Knows bytes and their CIDs, not what files or adapters they make up.
"""

from .client import BlockEvent, FetchReport, fetch_block, fetch_blocks
from .draft import Draft
from .exchange import BlockRef, Rejection
from .limits import BLOCK_BYTES, MAX_BLOCK_BYTES, PROTOCOL
from .rate import Rate
from .server import serve_blocks
from .store import BlockStore

__all__ = [
    "BLOCK_BYTES",
    "MAX_BLOCK_BYTES",
    "PROTOCOL",
    "BlockEvent",
    "BlockRef",
    "BlockStore",
    "Draft",
    "FetchReport",
    "Rate",
    "Rejection",
    "fetch_block",
    "fetch_blocks",
    "serve_blocks",
]

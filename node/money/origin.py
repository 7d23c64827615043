"""Remembers which chain a home belongs to. A development chain that was started anew has the same
addresses, and another past: old channels, receipts and headers mean nothing on it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..errors import ConfigError
from .wholefile import WholeFile


class Origin(msgspec.Struct, frozen=True):
    """What tells one chain from any other: where and when the network was deployed on it."""

    chain_id: int
    settlement: str
    first_block: int
    first_hash: str


def check_same_chain(path: Path, found: Origin) -> None:
    """Raise ConfigError unless this is the chain that the home saw before; the first one is
    remembered. LedgerError when the disk does not take it.
    """
    file = WholeFile(path)
    try:
        data = file.read()
        if data is None:
            file.write(msgspec.json.encode(found))
            return
        known = msgspec.json.decode(data, type=Origin)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is broken ({error}); remove it") from error
    if (known.chain_id, known.settlement) != (found.chain_id, found.settlement):
        raise ConfigError(
            f"{path.parent} belongs to the settlement contract {known.settlement} on chain"
            f" {known.chain_id}, not to {found.settlement} on chain {found.chain_id}; use another"
            " --home for another network"
        )
    if known != found:
        raise ConfigError(
            f"the chain was started anew: {path.parent} knows its block {known.first_block} as"
            f" {known.first_hash[:18]}…, now the contracts are from block {found.first_block},"
            f" {found.first_hash[:18]}…; its channels and receipts are worth nothing here: use a"
            " new --home, or remove this one"
        )

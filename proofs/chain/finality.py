"""How deep a block must lie before what it says counts.

As deep as the chain itself calls final, where it does; else, or where the operator says so, a
number of blocks below the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .answers import Block
from .errors import RpcRefused

if TYPE_CHECKING:  # it brings web3: a daemon without a chain must not wait for it
    from .rpc import Rpc

FINALIZED = "finalized"
FALLBACK_CONFIRMATIONS = 12


class Finality:
    """The stated depth of one network. Nothing is read before `first_block`, its contracts' own."""

    def __init__(self, rpc: Rpc, confirmations: int = 0, first_block: int = 0) -> None:
        self._rpc = rpc
        self._confirmations = confirmations
        self._first_block = first_block
        self._is_named = False  # whether the chain has said "finalized" of a block of ours

    def block(self) -> str | int:
        """The newest block that counts, to read state at."""
        if self._is_named:
            return FINALIZED
        return self.number()

    def number(self) -> int:
        """The newest block's number that counts."""
        found = self._find()
        return found if isinstance(found, int) else found.number

    def read(self) -> Block:
        """The newest block that counts, to read logs up to it."""
        found = self._find()
        return self._rpc.get_block(found) if isinstance(found, int) else found

    def _find(self) -> Block | int:
        """That block, or its number where the chain does not name it."""
        block = None if self._confirmations else self._find_finalized()
        if block is None:
            depth = self._confirmations or FALLBACK_CONFIRMATIONS
            return max(self._rpc.block_number() - depth + 1, self._first_block)
        if block.number < self._first_block:
            return self._first_block
        self._is_named = True
        return block

    def _find_finalized(self) -> Block | None:
        try:
            return self._rpc.find_block(FINALIZED)
        except RpcRefused:  # the node knows no such word, or no such block yet
            return None

"""How deep a block must lie before what it says counts.

As deep as the chain itself calls final, where it does; else, or where the operator says so, a
number of blocks below the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        """The newest block's number that counts, to read logs up to it."""
        number = None if self._confirmations else self._find_finalized()
        if number is None:
            depth = self._confirmations or FALLBACK_CONFIRMATIONS
            number = self._rpc.block_number() - depth + 1
        elif number >= self._first_block:
            self._is_named = True
        return max(number, self._first_block)

    def _find_finalized(self) -> int | None:
        try:
            block = self._rpc.find_block(FINALIZED)
        except RpcRefused:  # the node knows no such word, or no such block yet
            return None
        return None if block is None else block.number

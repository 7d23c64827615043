"""Reads every version of a network's parameters when somebody must know what a receipt may name.

Where a network has no contract of parameters there is nothing to read. Its functions block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..parameters import Version
from ..policies import UNGOVERNED, Policies, named_in, policies_of
from .views import LATEST

if TYPE_CHECKING:
    from .client import ChainClient
    from .governance import Governance


class Decisions:
    """The versions of one network's parameters; those that are deep enough in the chain to stay are
    read once.
    """

    def __init__(self, chain: ChainClient, governance: Governance | None) -> None:
        self._chain = chain
        self.governance = governance
        self._known: tuple[Version, ...] = ()

    def lasting(self, block: str | int) -> tuple[Version, ...]:
        """Return the versions as a block has them that is deep enough. ChainError."""
        self._known = self._read(block)
        return self._known

    def versions(self) -> tuple[Version, ...]:
        """Return every version that was written. ChainError."""
        return self._read(LATEST)

    def named_in(self, began_at: int) -> Policies:
        """Return what receipts may name in the epoch that began when this header was posted (Unix
        seconds of the chain; 0: the first epoch). ChainError.
        """
        if self.governance is None:
            return UNGOVERNED
        return named_in(self._read(LATEST), began_at)

    def every(self) -> Policies:
        """Return those of all versions that were written. ChainError."""
        return policies_of(self.versions())

    def _read(self, block: str | int) -> tuple[Version, ...]:
        if self.governance is None:
            return ()
        last = self.governance.last_version(block)
        return tuple(self.governance.versions(self._known, last))

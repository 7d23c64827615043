"""What one daemon does in datanets, as node/api/datanets.py promises it.

    members.py   create, invite, join, leave · give, withdraw
    council.py   queue, judge, appoint, make_version · change_charter
    reading.py   listing, show, text, export, verify, recover

Every word is signed by the node's own key and goes the same way (shelf.py).
"""

from __future__ import annotations

from .council import Council
from .losses import Lose, Losses
from .members import Members
from .reading import Readers


class DatanetService(Members, Council, Readers):
    """The datanets of one daemon."""

    def take_base(self, base: bytes, tokens: tuple[str, ...], lose: Lose | None = None) -> None:
        """The base is here: its template tokens may stand in no text that is for it, and `lose`
        says how hard one is for it, where this node computes.
        """
        self._shelf.base = base
        self._shelf.tokens = tokens
        self._shelf.losses = None if lose is None else Losses(base, lose)

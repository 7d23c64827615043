"""What the parts of a daemon's service share: one shelf, and who is paid. Decides nothing."""

from __future__ import annotations

from .shelf import Shelf


class Part:
    """One part of the service. `pay_to` is who is paid for what this node gives."""

    def __init__(self, shelf: Shelf, pay_to: bytes) -> None:
        self._shelf = shelf
        self._pay_to = pay_to

"""What the parts of a daemon's service share: one shelf, who is paid, and which adapters there are.
Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proofs.manifest import Manifest

from .dropping import Drops
from .shelf import Shelf

Adapters = Callable[[], Iterable[Manifest]]
"""Returns the manifests of the adapters that this node knows of and nobody withdrew."""


class Part:
    """One part of the service. `pay_to` is who is paid for what this node gives; `drops` are files
    that it is to give.
    """

    def __init__(self, shelf: Shelf, pay_to: bytes, adapters: Adapters, drops: Drops) -> None:
        self._shelf = shelf
        self._pay_to = pay_to
        self._adapters = adapters
        self._drops = drops

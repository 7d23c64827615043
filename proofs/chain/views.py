"""A question to a contract, as a value. Asks nobody."""

from __future__ import annotations

from dataclasses import dataclass

LATEST = "latest"
"""The newest block, as JSON-RPC names it."""


@dataclass(frozen=True)
class View:
    """One question to a contract: its artifact's name, its address, the function, its values."""

    name: str
    address: bytes
    function: str
    values: tuple[object, ...]

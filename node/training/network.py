"""Declares what a daemon's trainings need of the rest of it: an engine, and a way to publish and to
fetch adapters. Decides nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..api.adapters import AdapterInfo
from ..api.status import FilesInfo
from ..engine_host import EngineHost


class Network(Protocol):
    """A daemon, as its trainings see it. Everything raises NodeError."""

    engine: EngineHost | None

    async def push(self, folder: Path, key: Path | None = None) -> AdapterInfo:
        """Publish a PEFT folder with a lorikeet.toml."""

    async def files(self, model: str) -> FilesInfo:
        """Fetch an adapter unless it is here, and say where its files lie."""

    async def block(self, digest: str) -> bytes:
        """Return a block that is here, such as a manifest, by its hex digest."""

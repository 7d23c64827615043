"""Finds an adapter's token files among what is held here, or has just these fetched.

A client needs no weights to recompute whose text an answer drew on. Decides nothing.
"""

from __future__ import annotations

from pathlib import Path

import trio

from p2p.blocks.draft import Draft
from p2p.cid import Cid
from proofs.manifest import File, Manifest

from ..catalogue.fetching import Fetcher
from ..catalogue.holding import Holdings


class TokenFiles:
    """The token files that one daemon can have."""

    def __init__(self, holdings: Holdings, fetcher: Fetcher) -> None:
        self._holdings = holdings
        self._fetcher = fetcher

    def find_files(self, cid: Cid, manifest: Manifest) -> Path | None:
        """Return the folder in which all files of a held adapter lie; None for one not held."""
        if self._holdings.find(cid) is None:
            return None
        return next(iter(self._holdings.layout(cid, manifest))).parent

    async def fetch_files(self, cid: Cid, files: list[File], folder: Path) -> None:
        """Have some of its files whole in a folder, each block where it belongs; what is there is
        not fetched again. Raises NoProvider, AdapterError, OSError.
        """
        pulled = await self._fetcher.fetch_manifest(cid)
        layout = {folder / file.name: file.blocks for file in files}
        draft = await trio.to_thread.run_sync(Draft, layout)
        with draft:
            pulled.draft = draft
            await self._fetcher.fetch_blocks(pulled, files)

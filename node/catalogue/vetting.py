"""Looks whose the weights are of an adapter that is asked of others, before it is paid for: its
files are fetched once, weighed, and thrown away.

    asked for ──▶ looked at lately? ──yes──▶ refused, or asked
                    └─no─▶ fetched and weighed, for which an answer waits a moment: what comes of it
                           later counts for the next one

Whoever serves an adapter looks at the files that he holds (owning.py); who only pays for it has
none. Knows no names and no request.
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from p2p.blocks.draft import Draft
from p2p.cid import Cid
from proofs.manifest import Manifest
from proofs.weights import WeightsDigest

from ..errors import AdapterError, NodeError
from .holding import Source
from .owning import AdapterPaths, Ownership
from .packaging import CONFIG_FILE, WEIGHTS_FILE

MOMENT_S = 3.0  # an answer waits so long for the first look at its adapter
AGAIN_S = 600.0  # a look counts for so long
BRING_DEADLINE_S = 120.0
MAX_SEEN = 1024
MAX_WAITING = 16
MAX_WEIGHTS_BYTES = 1 << 30


class Held(Protocol):
    """What is here already: implemented by catalogue.holding.Holdings."""

    def find(self, cid: Cid) -> Manifest | None:
        """Return the manifest of a held adapter, or None."""


@dataclass(frozen=True)
class Seen:
    """What a look said: why the adapter is refused, None where it is not; when."""

    refusal: AdapterError | None
    at: float


class Vetting:
    """Looks at one adapter after the other, in a `folder` of its own that is emptied each time."""

    def __init__(
        self,
        ownership: Ownership,
        source: Source,
        held: Held,
        folder: Path,
        log: Callable[[str], None],
    ) -> None:
        self._ownership = ownership
        self._source = source
        self._held = held
        self._folder = folder
        self._log = log
        self._seen: OrderedDict[Cid, Seen] = OrderedDict()
        self._looking: dict[Cid, trio.Event] = {}
        self._send, self._receive = trio.open_memory_channel[tuple[Cid, Manifest]](MAX_WAITING)

    async def check(self, cid: Cid, manifest: Manifest) -> None:
        """Raise RegisteredElsewhere, RoyaltyUnpaid for an adapter that is not to be paid for, as
        far as that is known within a moment.
        """
        if not self._ownership.has_registry or self._held.find(cid) is not None:
            return
        seen = self._seen.get(cid)
        if seen is None or trio.current_time() - seen.at > AGAIN_S:
            looked = self._want(cid, manifest)
            if seen is None and looked is not None:
                with trio.move_on_after(MOMENT_S):
                    await looked.wait()
        seen = self._seen.get(cid)
        if seen is not None and seen.refusal is not None:
            raise type(seen.refusal)(str(seen.refusal))

    def _want(self, cid: Cid, manifest: Manifest) -> trio.Event | None:
        """Have an adapter looked at; None where too many wait for that."""
        if cid not in self._looking:
            try:
                self._send.send_nowait((cid, manifest))
            except trio.WouldBlock:
                return None
            self._looking[cid] = trio.Event()
        return self._looking[cid]

    async def run(self) -> None:
        """Look at what is wanted, until cancelled."""
        async for cid, manifest in self._receive:
            refusal = None
            try:
                with trio.fail_after(BRING_DEADLINE_S):
                    refusal = await self._look(cid, manifest)
            except (NodeError, OSError, trio.TooSlowError) as error:
                why = str(error) or "its files did not come in time"
                self._log(f"registry: {manifest.name}: not looked up, so asked for: {why}")
            self._seen[cid] = Seen(refusal, trio.current_time())
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
            self._looking.pop(cid).set()

    async def _look(self, cid: Cid, manifest: Manifest) -> AdapterError | None:
        weights = self._ownership.find_weighed(cid) or await self._weigh(cid, manifest)
        refusal = await self._ownership.find_refusal(manifest, weights)
        if refusal is not None:
            self._log(f"registry: {manifest.name} is not asked for: {refusal}")
        return refusal

    async def _weigh(self, cid: Cid, manifest: Manifest) -> WeightsDigest:
        """Fetch what an adapter's digest is of, and forget it again. Raises NodeError, OSError."""
        try:
            return await self._ownership.weigh(cid, await self._bring(cid, manifest))
        finally:
            await trio.to_thread.run_sync(shutil.rmtree, self._folder, True)

    async def _bring(self, cid: Cid, manifest: Manifest) -> AdapterPaths:
        files = [one for one in manifest.files if one.name in (CONFIG_FILE, WEIGHTS_FILE)]
        size_bytes = sum(size for one in files for _, size in one.blocks)
        if size_bytes > MAX_WEIGHTS_BYTES:
            raise AdapterError(f"it has {size_bytes} bytes; the limit is {MAX_WEIGHTS_BYTES}")
        self._folder.mkdir(parents=True, exist_ok=True)
        pulled = await self._source.fetch_manifest(cid)
        layout = {self._folder / one.name: one.blocks for one in files}
        draft = await trio.to_thread.run_sync(Draft, layout)
        with draft:
            pulled.draft = draft
            await self._source.fetch_blocks(pulled, files)
        return self._folder / CONFIG_FILE, self._folder / WEIGHTS_FILE

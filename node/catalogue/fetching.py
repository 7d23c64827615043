"""Brings an adapter's bytes here: finds who has them, fetches the manifest and the missing blocks.

    CID → the manifest, as it was announced, from the store or from a provider → blocks from all
          providers at once, each hashed on arrival

What is small and was announced by a connected peer comes from that one, without a look-up. Does not
know the base or the engine; holding.py decides which adapters are wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p2p.blocks.client import FetchReport, fetch_block, fetch_blocks
from p2p.blocks.draft import Draft
from p2p.blocks.exchange import BlockRef
from p2p.blocks.rate import Rate
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import FetchFailed, P2pError
from p2p.host import Host
from p2p.peers import PeerAddress
from proofs.manifest import MAX_MANIFEST_BYTES, File, Manifest, ManifestError, parse_manifest

from ..errors import AdapterError, NoProvider
from ..telemetry import Telemetry

PROVIDERS_DEADLINE_S = 4.0
MANIFEST_DEADLINE_S = 15.0
FETCH_DEADLINE_S = 300.0
MAX_PROVIDERS = 8
GUESS_DEADLINE_S = 5.0  # what came until then stays
GUESS_BYTES = 16 << 20  # more than this is fetched from everybody

Announced = Callable[[Cid], tuple[bytes, str] | None]
"""Gives the bytes of a manifest that was announced, and who announced it."""


@dataclass
class Pulled:
    """An adapter whose bytes are here, and how they came; times in milliseconds.

    `rejected`: peer, CID and reason for each block that did not match its hash.
    """

    cid: Cid
    manifest: Manifest
    providers: Sequence[PeerAddress] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    blocks_by_peer: dict[str, int] = field(default_factory=dict)
    rejected: tuple[tuple[str, str, str], ...] = ()
    fetched: set[Cid] = field(default_factory=set)
    """What came from the network into the store for it: nothing else is to be deleted there."""
    is_guess: bool = False
    """`providers` is who announced it; the network was not asked."""
    draft: Draft | None = None
    """Where its files are put together; without one, blocks go to the store."""

    def add(self, part: str, ms: float) -> None:
        """Add time to a part."""
        self.timings_ms[part] = self.timings_ms.get(part, 0.0) + ms


class Fetcher:
    """Fetches from the network into the store of one daemon."""

    def __init__(
        self,
        host: Host,
        store: BlockStore,
        telemetry: Telemetry,
        rate: Rate | None = None,
        announced: Announced = lambda cid: None,
    ) -> None:
        self._host = host
        self._store = store
        self._telemetry = telemetry
        self._rate = rate
        self._announced = announced

    async def find_providers(self, cid: Cid) -> list[PeerAddress]:
        """Find peers that say they serve this adapter (or base)."""
        return await self._host.dht.find_providers(
            cid, limit=MAX_PROVIDERS, deadline_s=PROVIDERS_DEADLINE_S
        )

    async def count_others(self, cid: Cid) -> int:
        """Count the other nodes that hold an adapter, MAX_PROVIDERS at most. Raises P2pError."""
        return len(await self.find_providers(cid))

    async def fetch_manifest(self, cid: Cid) -> Pulled:
        """Return the manifest, from the store or from a provider.

        The providers are looked up once, and kept for the blocks. Raises NoProvider, AdapterError.
        """
        data = self._store.get(cid)
        if data is not None:
            return Pulled(cid, _parse(cid, data))
        told = self._announced(cid)
        if told is not None:
            return self._take_announced(cid, *told)
        started = time.perf_counter()
        providers = await self.find_providers(cid)
        found = time.perf_counter()
        if not providers:
            raise NoProvider(f"no node provides {cid}; its publisher may be offline")
        try:
            data = await fetch_block(
                self._host,
                self._store,
                cid,
                MAX_MANIFEST_BYTES,
                providers=providers,
                deadline_s=MANIFEST_DEADLINE_S,
            )
        except P2pError as error:
            raise NoProvider(f"the manifest {cid} could not be fetched: {error}") from error
        timings_ms = {"lookup": (found - started) * 1000, "fetch": since_ms(found)}
        try:
            manifest = _parse(cid, data)
        except AdapterError:
            self._store.delete(cid)
            raise
        return Pulled(cid, manifest, providers, timings_ms, fetched={cid})

    async def fetch_blocks(self, pulled: Pulled, files: Sequence[File]) -> None:
        """Have every block of these files of the adapter in its draft, and say in `pulled` how they
        came.

        Raises NoProvider.
        """
        blocks = [block for file in files for block in file.blocks]
        wanted = [BlockRef(Cid(digest), size) for digest, size in blocks]
        sink = pulled.draft or self._store
        missing = [ref for ref in wanted if not sink.has(ref.cid)]
        if not missing:
            return None
        if pulled.draft is None:
            pulled.fetched |= {ref.cid for ref in missing}
        if pulled.is_guess and sum(ref.size_bytes for ref in missing) <= GUESS_BYTES:
            try:
                return await self._fetch(pulled, sink, missing, GUESS_DEADLINE_S)
            except NoProvider:
                missing = [ref for ref in missing if not sink.has(ref.cid)]
        if pulled.is_guess or not pulled.providers:
            started = time.perf_counter()
            pulled.providers = await self.find_providers(pulled.cid)
            pulled.is_guess = False
            pulled.add("lookup", since_ms(started))
        return await self._fetch(pulled, sink, missing, FETCH_DEADLINE_S)

    def _take_announced(self, cid: Cid, data: bytes, announcer: str) -> Pulled:
        """Keep an announced manifest, to give it to others, too."""
        self._store.put(data)
        is_guess = bool(announcer) and self._host.is_connected(announcer)
        providers = [PeerAddress(announcer)] if is_guess else []
        return Pulled(cid, _parse(cid, data), providers, fetched={cid}, is_guess=is_guess)

    async def _fetch(
        self,
        pulled: Pulled,
        sink: Draft | BlockStore,
        missing: Sequence[BlockRef],
        deadline_s: float,
    ) -> None:
        try:
            report = await fetch_blocks(
                self._host,
                sink,
                missing,
                pulled.providers,
                deadline_s=deadline_s,
                rate=self._rate,
            )
        except FetchFailed as error:
            raise NoProvider(
                f"adapter {pulled.manifest.name!r} could not be fetched: {error}"
            ) from error
        self._note(pulled, report)

    def _note(self, pulled: Pulled, report: FetchReport) -> None:
        pulled.add("fetch", report.seconds * 1000)
        pulled.add("verify", report.verify_s * 1000)
        rejected = tuple((peer, str(cid), reason) for peer, cid, reason in report.rejected)
        pulled.rejected += rejected
        for peer, count in report.blocks_by_peer.items():
            pulled.blocks_by_peer[peer] = pulled.blocks_by_peer.get(peer, 0) + count
            self._telemetry.count(f"blocks_fetched:{peer}", count)
        for peer, block, reason in rejected:
            self._telemetry.reject("block", peer, f"{reason}: {block}")


def _parse(cid: Cid, data: bytes) -> Manifest:
    try:
        return parse_manifest(data)
    except ManifestError as error:
        raise AdapterError(f"{cid} is no valid adapter manifest: {error}") from error


def since_ms(started: float) -> float:
    """Return the milliseconds since a reading of `time.perf_counter`."""
    return (time.perf_counter() - started) * 1000

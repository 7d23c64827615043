"""Presents one daemon's adapters to its faces and its requests.

Decides nothing: passes calls on to names, holdings, what is known, and reports over them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from p2p.cid import Cid
from p2p.identity import Identity, peer_id_of
from p2p.peers import PeerAddress
from proofs.manifest import Manifest

from ..api import AdapterInfo, AdapterState, PullReport
from ..errors import AdapterError
from .announcements import Known
from .fetching import Fetcher, Pulled, since_ms
from .holding import Holdings, size_of
from .names import Names
from .popularity import Popularity
from .publishing import Publisher


@dataclass(frozen=True)
class Catalogue:
    """Every adapter this daemon holds or has heard of."""

    base_name: str
    names: Names
    holdings: Holdings
    known: Known
    fetcher: Fetcher
    publisher: Publisher
    popularity: Popularity

    @property
    def base(self) -> bytes:
        """Return the digest of the base that is served or asked for here."""
        return self.holdings.base

    # --- what requests ask ---

    async def resolve(self, model: str) -> Cid | None:
        """Return the CID that a text names, None for the bare base. Raises UnknownModel."""
        return await self.names.resolve(model)

    async def hold(self, cid: Cid) -> Pulled:
        """Make an adapter servable here. Raises NoProvider, AdapterError, EngineError."""
        return await self.holdings.hold(cid)

    async def hold_guest(self, cid: Cid) -> Pulled:
        """The same for a stranger: it makes room again when others are wanted more."""
        return await self.holdings.hold_guest(cid)

    async def providers(self, cid: Cid) -> list[PeerAddress]:
        """Find peers that say they serve this adapter (or base)."""
        return await self.fetcher.find_providers(cid)

    async def manifest(self, cid: Cid) -> Manifest:
        """Return the manifest with this CID, fetching it when it is not here.

        Raises NoProvider, AdapterError.
        """
        found = self.holdings.find(cid) or self.known.find(cid)
        if found is None:
            found = (await self.fetcher.fetch_manifest(cid)).manifest
            self.known.learn(cid, found)
        return found

    # --- what the daemon's faces ask ---

    async def pull(self, model: str) -> PullReport:
        """Resolve a text and hold the adapter that it names."""
        started = time.perf_counter()
        cid = await self.names.resolve(model)
        if cid is None:
            raise AdapterError("the bare base needs no pull")
        lookup_ms = since_ms(started)
        pulled = await self.holdings.hold(cid)
        times = pulled.timings_ms
        return PullReport(
            pulled.manifest.name,
            str(cid),
            size_of(pulled.manifest),
            lookup_ms + times.get("lookup", 0.0),
            fetch_ms=times.get("fetch", 0.0),
            verify_ms=times.get("verify", 0.0),
            load_ms=times.get("load", 0.0),
            blocks_by_peer=pulled.blocks_by_peer,
            rejected=pulled.rejected,
        )

    async def unpin(self, model: str) -> AdapterInfo:
        """Resolve a text and let the adapter that it names make room for others."""
        cid = await self.names.resolve(model)
        if cid is None:
            raise AdapterError("the bare base always stays; name an adapter")
        return self._describe(cid, self.holdings.unpin(cid), num_others=0)

    async def publish(self, folder: Path, creator: Identity | None) -> AdapterInfo:
        """Sign and offer a PEFT folder."""
        published = await self.publisher.publish(folder, creator)
        return self._describe(published.cid, published.manifest, num_others=0)

    async def listing(self) -> list[AdapterInfo]:
        """List every adapter held or heard of, with how many peers provide it."""
        manifests = dict(self.known) | dict(self.holdings.held())
        others = await self.popularity.count(list(manifests))
        return [self._describe(cid, manifest, others[cid]) for cid, manifest in manifests.items()]

    def _describe(self, cid: Cid, manifest: Manifest, num_others: int) -> AdapterInfo:
        is_held = self.holdings.find(cid) is not None
        held: AdapterState = "ready" if self.holdings.computes else "held"
        return AdapterInfo(
            manifest.name,
            str(cid),
            peer_id_of(manifest.creator),
            held if is_held else "known",
            size_bytes=size_of(manifest),
            licence=manifest.licence,
            providers=num_others + is_held,
        )


def names_of(known: Known, holdings: Holdings) -> list[str]:
    """List the names of every adapter held or heard of, to suggest for a name that was not
    found.
    """
    return [manifest.name for _, manifest in (*known, *holdings.held())]

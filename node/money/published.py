"""Fetches what an epoch was published with, its batch and the manifests that are new in it, and
provides it to others.

Everything here is a block, named by its hash, so it does not matter who gives it. Who has all of
them says so once, under the archive's digest, and says each of the latest by its own. Knows no
chain, and not what a batch says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from hashlib import sha256

import trio

from p2p.blocks.client import fetch_block
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import P2pError
from p2p.host import Host
from p2p.peers import PeerAddress
from proofs.batch import MAX_BATCH_BYTES
from proofs.manifest import MAX_MANIFEST_BYTES

from ..telemetry import Telemetry

FETCH_DEADLINE_S = 20.0
PROVIDERS_DEADLINE_S = 4.0
PARALLEL_FETCHES = 8
MAX_PROVIDED = 500
"""So many batches are said one by one, the latest: each is told to the network each hour."""
MAX_HOLDERS = 4
_ARCHIVE = b"lorikeet batches\n"


def archive_digest(settlement: bytes) -> bytes:
    """Return the digest that whoever has all batches of a settlement contract provides."""
    return sha256(_ARCHIVE + settlement).digest()


class Published:
    """The blocks of all epochs of a settlement contract, as far as this node has them or can get
    them.

    `first` are peers that are asked before the DHT is.
    """

    def __init__(
        self,
        host: Host,
        store: BlockStore,
        settlement: bytes,
        first: Sequence[str],
        *,
        telemetry: Telemetry,
    ) -> None:
        self._host = host
        self._store = store
        self._archive = Cid(archive_digest(settlement))
        self._provided: deque[Cid] = deque()
        self._holders: tuple[PeerAddress, ...] = ()  # who had the last block that was looked for
        self._first = tuple(peer for peer in first if peer and peer != host.peer_id)
        self._telemetry = telemetry

    def find(self, digest: bytes) -> bytes | None:
        """Return a block that is here, without asking anybody. Blocks."""
        return self._store.get(Cid(digest))

    async def batch(self, digest: bytes, holders: Sequence[str] = ()) -> bytes:
        """Get a batch by the digest that its header names; `holders` probably have it.

        P2pError when nobody gives it.
        """
        return await self._get(digest, MAX_BATCH_BYTES, (*holders, *self._first))

    async def manifest(self, digest: bytes, holders: Sequence[str] = ()) -> bytes:
        """Get a manifest by its digest; `holders` probably have it. P2pError when nobody gives
        it.
        """
        return await self._get(digest, MAX_MANIFEST_BYTES, (*holders, *self._first))

    async def manifests(self, digests: Iterable[bytes], batch: bytes) -> dict[bytes, bytes]:
        """Get the manifests that are new in a batch, whose digest this is: whoever has the one has
        the others. P2pError when one cannot be had.
        """
        digests = list(digests)
        holders: list[str] = []
        if not all(self._store.has(Cid(digest)) for digest in digests):
            holders = [one.peer_id for one in await self._find_providers(Cid(batch))]
        found: dict[bytes, bytes] = {}
        limit = trio.CapacityLimiter(PARALLEL_FETCHES)
        failed: list[P2pError] = []

        async def get(digest: bytes) -> None:
            async with limit:
                try:
                    found[digest] = await self.manifest(digest, holders)
                except P2pError as error:
                    failed.append(error)

        async with trio.open_nursery() as nursery:
            for digest in digests:
                nursery.start_soon(get, digest)
        if failed:
            raise failed[0]
        return found

    async def provide(self, batch: bytes, manifests: Iterable[bytes]) -> None:
        """Store a batch and its manifests, and tell the network that the batch is here.

        Not the manifests: who says that it has one of those says that it has the whole adapter.
        """
        for manifest in manifests:
            self._store.put(manifest)
        cid = self._store.put(batch)
        self._note_provided(cid)
        try:
            await self._host.dht.provide(cid)
        except P2pError as error:
            self._telemetry.log(f"money: batch {cid} was not advertised now: {error}")

    def provide_again(self, digest: bytes) -> bool:
        """Have the network told of a batch from before a restart; False if it is not here."""
        cid = Cid(digest)
        if not self._store.has(cid):
            return False
        self._host.dht.provide_soon(cid)
        self._note_provided(cid)
        return True

    def provide_archive(self) -> None:
        """Have the network told that every batch so far is here."""
        self._host.dht.provide_soon(self._archive)

    def _note_provided(self, cid: Cid) -> None:
        self._provided.append(cid)
        if len(self._provided) > MAX_PROVIDED:
            self._host.dht.withdraw(self._provided.popleft())

    async def _find_providers(self, cid: Cid) -> list[PeerAddress]:
        return list(await self._host.dht.find_providers(cid, deadline_s=PROVIDERS_DEADLINE_S))

    async def _get(self, digest: bytes, max_bytes: int, first: Sequence[str]) -> bytes:
        cid = Cid(digest)
        here = self.find(digest)
        if here is not None:
            return here
        known = [*self._holders, *(PeerAddress(peer) for peer in first)]
        try:
            return await self._fetch(cid, max_bytes, known)
        except P2pError:
            holders = await self._find_holders(cid)
            data = await self._fetch(cid, max_bytes, holders)
            self._holders = tuple(holders[:MAX_HOLDERS])
            return data

    async def _find_holders(self, cid: Cid) -> list[PeerAddress]:
        """Find who has a block: it itself, or all."""
        return await self._find_providers(cid) or await self._find_providers(self._archive)

    async def _fetch(self, cid: Cid, max_bytes: int, providers: Sequence[PeerAddress]) -> bytes:
        return await fetch_block(
            self._host,
            self._store,
            cid,
            max_bytes,
            providers=providers,
            deadline_s=FETCH_DEADLINE_S,
        )

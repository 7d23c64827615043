"""A copy of every epoch, fetched by the digest that the chain names and recomputed here: nobody's
word is taken for what was sealed.

header on the chain → batch from whoever has it → recomputed → is it this header?
→ our receipts are included, then final
"""

from __future__ import annotations

import threading

import trio

from p2p.blocks.client import fetch_block
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.host import Host
from p2p.peers import PeerAddress
from proofs.batch import MAX_BATCH_BYTES, EpochState, decode_batch, recompute
from proofs.chain.client import ChainClient
from proofs.chain.headers import HeaderWalk, Reorganised
from proofs.chain.structs import PostedHeader
from proofs.digest import Network
from proofs.epoch import EpochHeader
from proofs.errors import BatchError
from proofs.history import History
from proofs.ledger import Outbox
from proofs.receipt import decode_receipt, digest_of
from proofs.sumtree import PayoutProof

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread

CHAIN_DEADLINE_S = 30.0
JOIN_DEADLINE_S = 600.0  # for all headers so far
FETCH_DEADLINE_S = 20.0
PROVIDERS_DEADLINE_S = 4.0


class Mirror:
    """All epochs so far, recomputed.

    Its history grows only by batches whose header is on the chain.
    """

    def __init__(
        self,
        host: Host,
        store: BlockStore,
        chain: ChainClient,
        network: Network,
        outbox: Outbox,
        telemetry: Telemetry,
        aggregator: str,
    ) -> None:
        self._host = host
        self._store = store
        self._chain = chain
        self._outbox = outbox
        self._telemetry = telemetry
        self._aggregator = aggregator
        self.network = network
        self.history = History(network)
        self._looking = threading.Lock()  # a look that took too long may still be under way
        self._walk: HeaderWalk | None = None  # opened by the first look at the chain
        self._pending: PostedHeader | Reorganised | None = None  # found, and not taken yet

    @property
    def header(self) -> EpochHeader | None:
        """The last header whose batch was recomputed here."""
        return self.history.state.header

    def credited(self, account: bytes) -> int:
        """What an account was awarded in all."""
        return self.history.state.payouts.get(account, 0)

    def prove_payout(self, account: bytes) -> PayoutProof:
        """The proof that the settlement contract wants."""
        return self.history.prove_payout(account)

    async def run(self, interval_s: float) -> None:
        """Follow the chain of headers, until cancelled."""
        while True:
            try:
                with survive(self._telemetry, "mirror"):
                    while await self.follow():
                        await trio.lowlevel.checkpoint()
            except BatchError as error:
                self._telemetry.count("epochs_contradicted")
                self._telemetry.log(
                    f"mirror: epoch {self.history.state.epoch + 1} does NOT follow from its"
                    f" receipts: {error}"
                )
            await trio.sleep(interval_s)

    async def follow(self) -> bool:
        """Take the next epoch, if the chain has one."""
        posted = await in_thread(self._find_next, deadline_s=JOIN_DEADLINE_S)
        if posted is None:
            return False
        if isinstance(posted, Reorganised):
            self._start_anew(posted)
            return True
        batch = await self._fetch(posted.header)
        history = self.history
        header = posted.header
        state = await in_thread(_recompute, history, batch, deadline_s=CHAIN_DEADLINE_S)
        if state.header != header:
            raise BatchError(
                "header", "the header on the chain is another one than its batch gives"
            )
        history.extend(batch, state)
        self._pending = None
        self._note(batch, header)
        return True

    def _find_next(self) -> PostedHeader | Reorganised | None:
        with self._looking:
            if self._walk is None:
                self._walk = self._chain.walk_headers()
            if self._pending is None:
                self._pending = self._walk.next()
            return self._pending

    def _start_anew(self, back: Reorganised) -> None:
        """The chain took headers back: recompute everything; the batches are here."""
        self._telemetry.count("reorganisations")
        self._telemetry.log(
            f"mirror: the chain took back its headers after epoch {back.epoch}; what they gave is"
            " recomputed"
        )
        assert self._walk is not None
        self._walk.rewind()
        self._pending = None
        self.history = History(self.network)

    async def _fetch(self, header: EpochHeader) -> bytes:
        cid = Cid(header.batch_digest)
        here = self._store.get(cid)
        if here is not None:
            return here
        providers = (
            [PeerAddress(self._aggregator)]
            if self._aggregator and self._aggregator != self._host.peer_id
            else []
        )
        providers += await self._host.dht.find_providers(cid, deadline_s=PROVIDERS_DEADLINE_S)
        return await fetch_block(
            self._host,
            self._store,
            cid,
            MAX_BATCH_BYTES,
            providers=providers,
            deadline_s=FETCH_DEADLINE_S,
        )

    def _note(self, batch: bytes, header: EpochHeader) -> None:
        receipts = decode_batch(batch).receipts
        ours = self._outbox.mark_included(
            (digest_of(decode_receipt(entry).body) for entry in receipts), header.epoch
        )
        self._outbox.mark_final(header.epoch)
        self._telemetry.count("epochs_mirrored")
        if ours:
            self._telemetry.log(f"mirror: epoch {header.epoch} holds {ours} of our receipts")


def _recompute(history: History, batch: bytes) -> EpochState:
    return recompute(batch, history.state)

"""Keeps a copy of every epoch, fetched by the digest that the chain names and recomputed here:
nobody's word is taken for what was sealed.

    header on the chain → batch and manifests, from anybody → recomputed → is it this header?
    → our receipts are included → the header's window is over → final, our payouts can be claimed

What does not follow, and what nobody gives the batch of, goes to the judge (watching.py). Claims
nothing and posts nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from p2p.errors import P2pError
from proofs.batch import decode_batch, recompute
from proofs.chain.client import ChainClient
from proofs.chain.decisions import Decisions
from proofs.chain.headers import Reorganised
from proofs.chain.structs import PostedHeader
from proofs.chain.views import LATEST
from proofs.digest import Network
from proofs.epoch import AccountLeaf, EpochHeader, Shown
from proofs.errors import BatchError, LedgerError
from proofs.history import History
from proofs.ledger import Outbox
from proofs.policies import Policies
from proofs.receipt import decode_receipt, digest_of
from proofs.signing import Signer
from proofs.state import EpochState, Transition

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from ..tracing import FINAL
from .heads import Heads
from .published import Published
from .wholefile import WholeFile

CHAIN_DEADLINE_S = 60.0
RECOMPUTE_DEADLINE_S = 120.0
CHECKPOINT_RECEIPTS = 20_000  # after so many more, a restart would verify too much again
MAX_KEPT_HEADERS = 4_096
PATIENCE_PARTS = 3  # of a header's window, one is for getting its batch; the rest is for demands


@dataclass(frozen=True)
class Pair:
    """A posted header and the one before it, as the court wants to see them."""

    posted: PostedHeader
    before: PostedHeader | None

    @property
    def began_at(self) -> int:
        """Return when its epoch began, in Unix seconds of the chain; 0: it is the first."""
        return self.before.posted_at if self.before else 0


@dataclass(frozen=True)
class Posted(Pair):
    """What one posted header came with, and what its receipts may name."""

    batch: bytes
    manifests: dict[bytes, bytes]
    policies: Policies


class Judge(Protocol):
    """Who hears of every header: watching.py."""

    async def approve(self, one: Posted, state: EpochState, transition: Transition) -> None:
        """Look at a header that follows from its batch, and to which `state` has gone on."""

    async def accuse(self, one: Posted, state: EpochState, error: BatchError) -> None:
        """Act on a header that does not follow from its batch; `state` stands before it."""

    async def miss(self, pair: Pair, state: EpochState) -> None:
        """Act on a header whose batch nobody gives, each time that it was asked for in vain;
        `state` stands before it.
        """


@dataclass(frozen=True)
class Claimable:
    """Under a final header: what an account was awarded in all, with the proof."""

    posted: PostedHeader
    shown: Shown[AccountLeaf]


class Mirror:
    """All epochs so far, recomputed. Its history grows only by headers that are on the chain.

    - `history` stands after the last header; `final` is the last one whose window is over.
    - Of our own accounts it keeps the proof under each header until a later one is final.
    """

    def __init__(
        self,
        published: Published,
        chain: ChainClient,
        outbox: Outbox,
        telemetry: Telemetry,
        *,
        signer: Signer,
        accounts: Sequence[bytes],
        checkpoint: Path,
        decisions: Decisions,
        judge: Judge | None = None,
    ) -> None:
        self._decisions = decisions
        self._published = published
        self._chain = chain
        self._outbox = outbox
        self._telemetry = telemetry
        self._signer = signer
        self._accounts = tuple(accounts)
        self._file = WholeFile(checkpoint)
        self._judge = judge
        self.history = History(chain.network)
        self.final: PostedHeader | None = None
        self._walk = chain.walk_headers()
        self._sought: bytes | None = None  # the hash at which a checkpoint goes on
        self._pending: PostedHeader | None = None
        self._pending_since = 0.0
        self._headers: dict[int, PostedHeader] = {}
        self._unwritten: deque[Posted] = deque()  # recomputed, and refused by the disk
        self._ripening: deque[tuple[PostedHeader, dict[bytes, Shown[AccountLeaf]]]] = deque()
        self._claimable: dict[bytes, Claimable] = {}
        self._checkpointed = 0
        self._is_whole = True  # every batch so far is here
        self.level = trio.Event()  # set once it has had all that the chain had by then

    @property
    def network(self) -> Network:
        """Return the network whose epochs these are."""
        return self.history.network

    @property
    def header(self) -> EpochHeader | None:
        """Return the last header whose batch was recomputed here."""
        return self.history.state.header

    def posted(self, epoch: int) -> PostedHeader | None:
        """Return a header as the chain has it, one of the last few thousand."""
        return self._headers.get(epoch)

    def last_posted(self) -> PostedHeader | None:
        """Return the header that this history stands at, as the chain has it."""
        return self.posted(self.history.state.epoch)

    def state_at(self, epoch: int) -> EpochState | None:
        """Return the state after an epoch, where that is the one that this history stands at."""
        state = self.history.state
        return state if state.epoch == epoch else None

    def open_headers(self) -> list[PostedHeader]:
        """List the headers that can still be challenged, oldest first."""
        return [posted for posted, _ in self._ripening]

    def credited(self, account: bytes) -> int:
        """Return what an account was awarded in all, final or not."""
        return self.history.state.amount(account)

    def claimable(self, account: bytes) -> Claimable | None:
        """Return the proof that the settlement contract pays one of our accounts for."""
        return self._claimable.get(account)

    async def run(self, heads: Heads, interval_s: float) -> None:
        """Follow the chain of headers, until cancelled."""
        await trio.to_thread.run_sync(self._restore)
        turns = heads.turns(interval_s, lambda: self._is_under_way(heads))
        while True:
            await turns.next()
            is_level = False
            with survive(self._telemetry, "mirror"):
                while await self.follow():
                    await trio.lowlevel.checkpoint()
                self._note_level()
                is_level = True
            with survive(self._telemetry, "the mirror's disk"):
                await self._write_down()
            with survive(self._telemetry, "finality"):
                await self._ripen()
                if is_level:
                    turns.looked()

    def _is_under_way(self, heads: Heads) -> bool:
        """Return whether the disk refused something, or a header's window ends about now."""
        if self._unwritten or not self._ripening:
            return bool(self._unwritten)
        posted, _ = self._ripening[0]
        return heads.has_come(posted.posted_at + self._chain.settlement.terms.window)

    def _note_level(self) -> None:
        """Note that all that the chain has was recomputed."""
        if not self.level.is_set() and self._is_whole:
            self._published.provide_archive()
        self.level.set()

    async def follow(self) -> bool:
        """Take the next header, if the chain has one; False when there is none yet."""
        if self._pending is None or not await self._is_posted(self._pending):
            found = await in_thread(self._walk.next, deadline_s=CHAIN_DEADLINE_S)
            if found is None:
                return self._begin_anew_if_lost()
            if isinstance(found, Reorganised):
                self._go_back(found.epoch)
                return True
            self._pending = found
            self._pending_since = trio.current_time()
        if self._is_on_our_way(self._pending):
            await self._take(self._pending)
        self._pending = None
        return True

    async def _is_posted(self, posted: PostedHeader) -> bool:
        return await in_thread(
            self._chain.settlement.is_posted, posted, deadline_s=CHAIN_DEADLINE_S
        )

    def _is_on_our_way(self, posted: PostedHeader) -> bool:
        """Return whether a header continues what is here; go back first where it replaces some."""
        header = posted.header
        self._headers[header.epoch] = posted
        self._headers.pop(header.epoch - MAX_KEPT_HEADERS, None)
        if self._sought is not None:
            self._is_whole &= self._published.provide_again(header.batch_digest)
            if header.hash == self._sought:
                self._sought = None
            return False
        if header.epoch <= self.history.state.epoch:  # the contract took the others back
            self._go_back(header.epoch - 1)
        return header.previous == self.history.state.header_hash

    async def _take(self, posted: PostedHeader) -> None:
        pair = Pair(posted, self._headers.get(posted.header.epoch - 1))
        policies = await self.policies_in(pair.began_at)
        one = await self._gather(pair, policies)
        try:
            transition = await in_thread(self._recompute, one, deadline_s=RECOMPUTE_DEADLINE_S)
        except BatchError as error:
            await self._refuse(one, error)
            return
        self.history.state.apply(transition)
        self._remember_payouts(posted)
        self._unwritten.append(one)
        # Judged before it is written down: a full disk must not keep a lie from being seen.
        if self._judge is not None:
            await self._judge.approve(one, self.history.state, transition)
        with survive(self._telemetry, "the mirror's disk"):
            await self._write_down()

    async def policies_in(self, began_at: int) -> Policies:
        """Return what receipts may name in the epoch that began then."""
        return await in_thread(self._decisions.named_in, began_at, deadline_s=CHAIN_DEADLINE_S)

    async def _write_down(self) -> None:
        """Keep and provide what was recomputed, also what the disk refused before."""
        while self._unwritten:
            one = self._unwritten[0]
            await self._published.provide(one.batch, one.manifests.values())
            self._note(one.batch, one.posted.header)
            self._unwritten.popleft()
        await self._checkpoint_if_due()

    async def _gather(self, pair: Pair, policies: Policies) -> Posted:
        """Get what a header was published with. P2pError or TooSlowError where nobody gives it; the
        judge hears of that when the part of the window is over that is for it.
        """
        left_s = await in_thread(self._read_patience, pair.posted, deadline_s=CHAIN_DEADLINE_S)
        window_s = self._chain.settlement.terms.window
        waited_s = trio.current_time() - self._pending_since
        left_s = min(left_s, window_s / PATIENCE_PARTS - waited_s)
        try:
            with trio.move_on_after(left_s) if left_s > 0 else trio.CancelScope() as scope:
                return await self._fetch(pair, policies)
            assert scope.cancelled_caught
            raise trio.TooSlowError
        except (P2pError, trio.TooSlowError):
            if (left_s <= 0 or scope.cancelled_caught) and self._judge is not None:
                await self._judge.miss(pair, self.history.state)
            raise

    async def _fetch(self, pair: Pair, policies: Policies) -> Posted:
        digest = pair.posted.header.batch_digest
        batch = await self._published.batch(digest)
        try:
            adapters = decode_batch(batch).adapters
        except BatchError:  # recomputing says what is wrong with it
            adapters = []
        manifests = await self._published.manifests(adapters, digest)
        return Posted(pair.posted, pair.before, batch, manifests, policies)

    def _read_patience(self, posted: PostedHeader) -> float:
        """Return how long to wait for a header's batch, by the chain's clock. Blocks."""
        window_s = self._chain.settlement.terms.window
        now = self._chain.rpc.get_block(LATEST).timestamp
        return posted.posted_at + window_s / PATIENCE_PARTS - now

    def _recompute(self, one: Posted) -> Transition:
        transition = recompute(one.batch, self.history.state, one.manifests, one.policies)
        if transition.header != one.posted.header:
            raise BatchError(
                "header", "the header on the chain is another one than its batch gives"
            )
        return transition

    async def _refuse(self, one: Posted, error: BatchError) -> None:
        epoch = one.posted.header.epoch
        self._telemetry.count("epochs_contradicted")
        self._telemetry.log(f"mirror: epoch {epoch} does NOT follow from its receipts: {error}")
        if self._judge is not None:
            await self._judge.accuse(one, self.history.state, error)

    def _note(self, batch: bytes, header: EpochHeader) -> None:
        ours = self._outbox.mark_included(
            (digest_of(decode_receipt(entry).body) for entry in decode_batch(batch).receipts),
            header.epoch,
        )
        self._telemetry.count("epochs_mirrored")
        for digest in ours:
            self._telemetry.traces.step(digest, "seal", epoch=header.epoch)
        if ours:
            self._telemetry.log(f"mirror: epoch {header.epoch} holds {len(ours)} of our receipts")

    def _remember_payouts(self, posted: PostedHeader) -> None:
        state = self.history.state
        places = {account: state.find_account(account) for account in self._accounts}
        self._ripening.append(
            (
                posted,
                {
                    account: state.show_account(index)
                    for account, index in places.items()
                    if index is not None
                },
            )
        )

    async def _ripen(self) -> None:
        """Take note of the headers whose window is over, and of those that were taken back."""
        settlement = self._chain.settlement
        while self._ripening:
            posted, shown = self._ripening[0]
            is_final = await in_thread(settlement.find_final, posted, deadline_s=CHAIN_DEADLINE_S)
            if is_final is None:
                self._go_back(posted.header.epoch - 1)
            if not is_final:
                return
            self._ripening.popleft()
            self.final = posted
            self._claimable = {account: Claimable(posted, one) for account, one in shown.items()}
            for digest in self._outbox.mark_final(posted.header.epoch):
                self._telemetry.traces.step(digest, FINAL)

    def _go_back(self, epoch: int) -> None:
        """Forget every epoch after this one."""
        self._pending = None
        while self._ripening and self._ripening[-1][0].header.epoch > epoch:
            self._ripening.pop()
        while self._unwritten and self._unwritten[-1].posted.header.epoch > epoch:
            self._unwritten.pop()
        if epoch >= self.history.state.epoch:
            return
        self._telemetry.count("epochs_taken_back", self.history.state.epoch - epoch)
        self._telemetry.log(f"mirror: the chain took back what came after epoch {epoch}")
        self._outbox.take_back(epoch + 1)
        if not self.history.revert(epoch):
            self._begin_anew()

    def _begin_anew_if_lost(self) -> bool:
        if self._sought is None:
            return False
        self._telemetry.log("mirror: the chain does not know our checkpoint; recomputing all")
        self._begin_anew()
        return True

    def _begin_anew(self) -> None:
        self.history = History(self.network)
        self._sought = None
        self._is_whole = True
        self._ripening.clear()
        self._unwritten.clear()
        self._walk.rewind()

    def _restore(self) -> None:
        data = self._file.read()
        if data is None:
            return
        try:
            self.history.restore(data, self._signer.address)
        except LedgerError as error:
            self._telemetry.log(f"mirror: {error}; recomputing all")
            return
        self._sought = self.history.state.header_hash
        self._checkpointed = self.history.state.log.size

    async def _checkpoint_if_due(self) -> None:
        size = self.history.state.log.size
        if size < self._checkpointed + CHECKPOINT_RECEIPTS:
            return
        await trio.to_thread.run_sync(self._write_checkpoint)
        self._checkpointed = size

    def _write_checkpoint(self) -> None:
        self._file.write(self.history.write_checkpoint(self._signer))

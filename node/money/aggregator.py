"""Runs the aggregator's role: takes receipts, promises, seals epochs, has witnesses sign them,
publishes batches, posts headers.

The deciding is in proofs.aggregator.

    a stream → envelope checked → channel and manifest looked up → promise
    every epoch: what is claimed, read at once → sealed, in a thread → batch provided → witnesses
                 → header posted, once
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec
import trio

from p2p.errors import P2pError
from p2p.streams import FrameStream
from proofs.aggregator import (
    NEVER,
    Accepted,
    Aggregator,
    ChannelView,
    Duplicate,
    Equivocation,
    InGrace,
    Outcome,
    Pace,
    Rejected,
    SealedEpoch,
    Waiting,
)
from proofs.attribution.shares import AdapterTerms
from proofs.batch import decode_batch, moved_by, recompute
from proofs.chain.anchoring import find_anchor
from proofs.chain.client import ChainClient
from proofs.chain.decisions import Decisions
from proofs.chain.errors import ChainError, ContractReverted, HeaderConflict
from proofs.chain.poster import Poster
from proofs.chain.structs import ANYWHERE, Anchor, PostedHeader
from proofs.digest import Network
from proofs.envelope import VerifiedEnvelope, open_envelope
from proofs.epoch import EpochHeader
from proofs.errors import BatchError, LedgerError, ManifestError, ProofError
from proofs.heap import settle_heap
from proofs.hextext import to_hex
from proofs.history import History
from proofs.ledger import AggregatorLedger, Ledger, PostJournal
from proofs.policies import UNGOVERNED, Policies
from proofs.promise import Evidence, verify_evidence
from proofs.receipt import BARE_BASE, decode_body, decode_receipt, digest_of
from proofs.signing import Signer
from proofs.state import EpochState
from proofs.voucher import ChannelConfig

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire import receipts as wire
from .published import Published
from .quorum import Quorum
from .reminders import Reminders

CHAIN_DEADLINE_S = 60.0
SEAL_DEADLINE_S = 60.0
POST_DEADLINE_S = 300.0
VIEW_S = 45.0  # how long a channel's state is believed
MAX_VIEWS = 65_536
IDLE_DEADLINE_S = 60.0
MAX_SHOWN_EVIDENCE = 20
NO_CHANNEL = ChannelView(0, NEVER)
ALIVE_SHARE = 3  # it says that it is there when a third of the silence is over
STALE = ("PayoutExceedsReceived", "WrongPrevious")  # what a header stood on is gone


OnTwoReceipts = Callable[[ChannelConfig, Evidence], None]


def ignore_two_receipts(config: ChannelConfig, evidence: Evidence) -> None:
    """Hear of two receipts for one place, where nothing stands behind whoever signed them."""


class ClaimGone(ChainError):
    """A claim that a sealed epoch stands on is not on the chain any more."""


class AggregatorRole:
    """One network's aggregator.

    `receive` may be called from many streams; the lock gives the state one owner at a time.
    """

    def __init__(
        self,
        published: Published,
        chain: ChainClient,
        signer: Signer,
        ledger: Ledger,
        telemetry: Telemetry,
        *,
        quorum: Quorum,
        pace: Pace,
        decisions: Decisions,
        policies: Policies = UNGOVERNED,
        is_paused: Callable[[], bool] = lambda: False,
        on_two_receipts: OnTwoReceipts = ignore_two_receipts,
    ) -> None:
        self._decisions = decisions
        self._is_paused = is_paused
        self._on_two_receipts = on_two_receipts
        self._published = published
        self._chain = chain
        self._network: Network = chain.network
        self._telemetry = telemetry
        self._ledger = AggregatorLedger(ledger)
        self._journal = PostJournal(ledger)
        self._poster = Poster(chain, self._journal)
        self._quorum = quorum
        self._reminders = Reminders(chain, telemetry)
        self._core = Aggregator(self._network, signer, self._ledger, pace, policies)
        self._views: dict[bytes, tuple[ChannelView, float]] = {}
        self._lock = trio.Lock()
        self._is_level = False  # whether this ledger has what the chain has
        self._shown_s: float | None = None  # when it last posted or said that it is there
        self._seen_block = b""
        self._ahead_s = 0  # by how much the chain's clock was ahead of ours when it was looked at

    def _now(self) -> int:
        """Return the chain's time, in Unix seconds: ours, or later where its clock runs ahead."""
        return int(time.time()) + self._ahead_s

    def promise_within(self, promise_s: int) -> None:
        """Promise from now on to have a receipt in a header within so many seconds."""
        self._core.promise_within(promise_s)

    def divide_by(self, policies: Policies) -> None:
        """Take from now on receipts that name one of these."""
        self._core.divide_by(policies)

    def state_at(self, epoch: int) -> EpochState:
        """Return the state after a sealed epoch, recomputed where it is not the last. Blocks."""
        if epoch == self._core.state.epoch:
            return self._core.state
        history = History(self._network)
        policies = self._decisions.every()
        for batch in itertools.islice(self._ledger.batches(0), epoch):
            history.append(batch, self._manifests_in(batch), policies=policies)
        return history.state

    # --- receipts ---

    async def serve(self, stream: FrameStream) -> None:
        """Take receipts that a node delivers itself."""
        try:
            deliver = msgspec.msgpack.decode(
                await stream.receive(IDLE_DEADLINE_S), type=wire.Deliver
            )
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._telemetry.reject("message", stream.remote, str(error))
            return
        outcomes = await self._take_all(deliver.envelopes, stream.remote)
        await stream.send(msgspec.msgpack.encode(wire.Taken(outcomes)), wire.DELIVER_DEADLINE_S)

    async def _take_all(
        self, envelopes: Sequence[bytes], peer_id: str
    ) -> list[wire.Accepted | wire.Waiting | wire.Rejected]:
        opened: list[VerifiedEnvelope | ProofError] = []
        for data in envelopes:
            try:
                opened.append(open_envelope(data, self._network))
            except ProofError as error:
                opened.append(error)
        good = [one for one in opened if isinstance(one, VerifiedEnvelope)]
        try:
            await self._look_up(good)
        except (ChainError, trio.TooSlowError) as error:
            reason = str(error)[: wire.MAX_REASON_CHARS]
            self._telemetry.log(f"aggregator: {len(good)} receipts wait: {error}")
            return [wire.Waiting(reason)] * len(opened)
        return [await self._take(one, peer_id) for one in opened]

    async def _take(
        self, opened: VerifiedEnvelope | ProofError, peer_id: str
    ) -> wire.Accepted | wire.Waiting | wire.Rejected:
        if isinstance(opened, ProofError):
            self._telemetry.reject("receipt", peer_id, str(opened))
            return wire.Rejected(str(opened)[: wire.MAX_REASON_CHARS], retryable=False)
        try:
            return _answer(opened, await self._receive(opened, peer_id))
        except (LedgerError, ManifestError) as error:
            self._telemetry.log(
                f"aggregator: receipt {opened.receipt.digest.hex()[:12]} waits: {error}"
            )
            return wire.Waiting(str(error)[: wire.MAX_REASON_CHARS])

    async def _receive(self, envelope: VerifiedEnvelope, peer_id: str) -> Outcome:
        terms = await self._get_terms(envelope.receipt.receipt.adapter, peer_id)
        view, _ = self._views.get(envelope.voucher.channel_id, (NO_CHANNEL, 0.0))
        async with self._lock:
            outcome = self._core.receive(envelope, view, terms, self._now())
        self._tell(outcome, envelope, peer_id)
        return outcome

    async def _get_terms(self, adapter: bytes, peer_id: str) -> AdapterTerms | None:
        """Return what the adapter's manifest says; from whoever delivers, or the network.

        None where it cannot be had now: the receipt is then not taken yet.
        """
        known = self._core.find_terms(adapter)
        if known is not None or adapter == BARE_BASE:
            return known
        try:
            data = await self._published.manifest(adapter, [peer_id])
        except P2pError as error:
            self._telemetry.log(f"aggregator: the manifest {adapter.hex()[:12]} is away: {error}")
            return None
        return self._core.learn(data, adapter)

    async def _look_up(self, envelopes: Sequence[VerifiedEnvelope]) -> None:
        """Read the channels on chain that are not known well enough, all at once."""
        now = trio.current_time()
        stale = {one.voucher.channel_id: None for one in envelopes if not self._is_known(one, now)}
        if not stale:
            return
        if len(self._views) + len(stale) > MAX_VIEWS:
            self._views.clear()
        views = await in_thread(self._read_views, list(stale), deadline_s=CHAIN_DEADLINE_S)
        self._views |= {channel: (view, now) for channel, view in views.items()}

    def _read_views(self, channels: list[bytes]) -> dict[bytes, ChannelView]:
        """Read these channels, as deep as the network's finality asks. Blocks."""
        states = self._chain.channels.read_many(channels)
        left = self._chain.settlement.left_at_many(channels)
        return {
            channel: ChannelView(state.total_claimed, left.get(channel, NEVER))
            for channel, state in zip(channels, states, strict=True)
        }

    def _is_known(self, envelope: VerifiedEnvelope, now: float) -> bool:
        known = self._views.get(envelope.voucher.channel_id)
        if known is None or known[1] < now - VIEW_S:
            return False
        return known[0].total_claimed >= envelope.receipt.receipt.cumulative

    def _tell(self, outcome: Outcome, envelope: VerifiedEnvelope, peer_id: str) -> None:
        match outcome:
            case Accepted():
                self._telemetry.count("receipts_accepted", len(outcome.promises))
            case Duplicate():
                self._telemetry.count("receipts_duplicate")
            case Waiting():
                self._telemetry.count("receipts_out_of_order")
            case InGrace():
                self._telemetry.count("receipts_in_grace")
            case Rejected():
                self._telemetry.reject("receipt", peer_id, f"{outcome.invariant}: {outcome.reason}")
            case Equivocation():
                receipt = envelope.receipt.receipt
                reason = (
                    f"equivocation: two receipts {receipt.sequence} in channel"
                    f" {receipt.channel_id.hex()[:12]}"
                )
                self._telemetry.count("equivocations")
                self._on_two_receipts(envelope.config, outcome.evidence)
                self._telemetry.reject(
                    "receipt", peer_id, f"{reason}, both signed by 0x{receipt.operator.hex()}"
                )

    # --- epochs ---

    async def run(self, epoch_s: float) -> None:
        """Seal each epoch and post what is not posted, until cancelled.

        Nothing is sealed before this ledger has what the chain has: where its disk was lost, or
        another one was aggregator before, it is rebuilt from the chain and the published batches.
        """
        while True:
            with survive(self._telemetry, "the ledger"):
                if not self._is_level and await self._catch_up():
                    self._is_level = True
                    await trio.to_thread.run_sync(settle_heap)
            await self._keep_office()
            is_posted = self._is_level and not self._waits() and await self._post_all()
            await trio.sleep(epoch_s)
            if is_posted:  # or more would be promised than fits one epoch, should this one fall
                await self._seal()

    def _waits(self) -> bool:
        """Return whether the guardian asks that nothing be posted, and tell it."""
        if self._is_paused():
            self._telemetry.trouble("posting", "the network's guardian paused it")
            return True
        self._telemetry.clear("posting")
        return False

    async def _catch_up(self) -> bool:
        """Adopt the epochs that the chain has and this ledger has not, or has others in their
        place; False where one of them does not follow from its batch: whoever posted that will be
        convicted.
        """
        last = await in_thread(self._chain.settlement.last_epoch, deadline_s=CHAIN_DEADLINE_S)
        await self._unseal_what_lost(last)
        while self._core.state.epoch < last:
            epoch = self._core.state.epoch + 1
            posted = await self._find_header(epoch)
            if posted is None:  # taken back just now
                return False
            batch = await self._published.batch(posted.header.batch_digest)
            try:
                manifests = await self._published.manifests(
                    decode_batch(batch).adapters, posted.header.batch_digest
                )
                async with self._lock:
                    await trio.to_thread.run_sync(self._adopt, batch, manifests, posted.header)
            except BatchError as error:
                self._telemetry.log(f"aggregator: epoch {epoch} of the chain is a lie: {error}")
                return False
            self._telemetry.count("epochs_adopted")
        return True

    async def _unseal_what_lost(self, last: int) -> None:
        """Take back our epochs in whose place the chain has others: another aggregator's, or what
        we had unsealed and the chain took after all.
        """
        epoch = min(last, self._core.state.epoch)
        first = None
        while epoch > 0 and await self._is_another(epoch):
            first = epoch
            epoch -= 1
        if first is not None:
            await self._unseal(first)

    async def _is_another(self, epoch: int) -> bool:
        posted = await self._find_header(epoch)
        sealed = self._ledger.find_epoch(epoch)
        return posted is not None and sealed is not None and posted.header != sealed.header

    async def _find_header(self, epoch: int) -> PostedHeader | None:
        return await in_thread(
            self._chain.settlement.find_header, epoch, deadline_s=CHAIN_DEADLINE_S
        )

    def _adopt(self, batch: bytes, manifests: Mapping[bytes, bytes], header: EpochHeader) -> None:
        policies = self._decisions.every()
        if recompute(batch, self._core.state, manifests, policies).header != header:
            raise BatchError("header", "it is another one than its batch gives")
        self._core.adopt(batch, manifests, self._now(), policies)

    async def _recall(self) -> None:
        """Take up again what somebody demands on the chain that we promised: this ledger may have
        been lost since.
        """
        found = await in_thread(self._reminders.read, deadline_s=CHAIN_DEADLINE_S)
        async with self._lock:
            for one in found:
                try:
                    is_new = self._core.recall(one)
                except ProofError as error:
                    self._telemetry.log(f"aggregator: a promised receipt cannot follow: {error}")
                    continue
                self._telemetry.count("receipts_recalled", int(is_new))

    async def _seal(self) -> None:
        with survive(self._telemetry, "reminders"):
            await self._recall()
        now = self._now()
        due = self._core.channels_due(now)
        if not due:
            return
        sealed = None
        with survive(self._telemetry, "epochs"):
            views = await in_thread(self._read_views, due, deadline_s=CHAIN_DEADLINE_S)
            async with self._lock:
                # Not abandoned: whoever held the lock next would meet a state that still changes.
                sealed = await trio.to_thread.run_sync(self._core.seal, views, now)
        if sealed is not None:
            self._telemetry.count("epochs_sealed")
            self._telemetry.log(
                f"aggregator: sealed epoch {sealed.header.epoch}, {sealed.header.num_receipts}"
                " receipts in all"
            )
        await self._checkpoint_if_due()

    async def _checkpoint_if_due(self) -> None:
        if not self._core.is_checkpoint_due:
            return
        with survive(self._telemetry, "checkpoints"):
            async with self._lock:
                await trio.to_thread.run_sync(self._core.write_checkpoint)

    async def _post_all(self) -> bool:
        """Post every sealed header that is not on the chain, in order; the poster makes each happen
        once. Return whether all are there.
        """
        with survive(self._telemetry, "headers"):
            try:
                first = await in_thread(self._poster.first_unposted, deadline_s=CHAIN_DEADLINE_S)
                for epoch in range(first, self._ledger.last_epoch() + 1):
                    sealed = self._ledger.find_epoch(epoch)
                    assert sealed is not None
                    await self._post(sealed)
                return True
            except (ContractReverted, ClaimGone) as error:
                await self._reconsider(error)
            except HeaderConflict as error:
                self._telemetry.log(f"aggregator: {error}")
                self._is_level = False
        return False

    async def _post(self, sealed: SealedEpoch) -> None:
        epoch = sealed.header.epoch
        await self._published.provide(sealed.batch, self._manifests_in(sealed.batch).values())
        found = await in_thread(self._poster.find, sealed.header, deadline_s=CHAIN_DEADLINE_S)
        signatures: list[bytes] = []
        # Of what is on the chain the witnesses have signed enough, and have gone on.
        anchor = ANYWHERE
        if found is None:
            signatures = await self._quorum.gather(sealed.header)
            anchor = await in_thread(self._find_anchor, sealed, deadline_s=CHAIN_DEADLINE_S)
        post = partial(self._poster.post, anchor=anchor)
        posted = await in_thread(post, sealed.header, signatures, deadline_s=POST_DEADLINE_S)
        self._shown_s = time.monotonic()
        self._telemetry.count("headers_posted")
        self._telemetry.log(f"aggregator: posted epoch {epoch} in 0x{posted.transaction.hex()}")

    def _find_anchor(self, sealed: SealedEpoch) -> Anchor:
        """Find on which branch of the chain, and until when, what an epoch says is true; raise
        ClaimGone where it is not any more. The contract knows only the sum of all claims, and
        whoever posts a header without them is convicted. Blocks.
        """
        anchor = find_anchor(self._chain, moved_by(sealed.batch))
        if anchor is None:
            raise ClaimGone(
                f"a channel of epoch {sealed.header.epoch} is no longer claimed so far, or leaves"
            )
        return anchor

    def _manifests_in(self, batch: bytes) -> dict[bytes, bytes]:
        found = {
            digest: self._ledger.find_manifest(digest) for digest in decode_batch(batch).adapters
        }
        return {digest: data for digest, data in found.items() if data is not None}

    async def _reconsider(self, error: ContractReverted | ClaimGone) -> None:
        """Take back what is sealed, where the contract refuses its header, or would convict whoever
        posts it, because the chain took back what it stands on: it is sealed anew later, with what
        is still claimed.
        """
        self._telemetry.log(f"aggregator: the next header cannot be posted: {error}")
        if isinstance(error, ContractReverted) and error.error not in STALE:
            return
        first = await in_thread(self._poster.first_unposted, deadline_s=CHAIN_DEADLINE_S)
        await self._unseal(first)

    async def _unseal(self, first: int) -> None:
        async with self._lock:
            if first <= self._core.state.epoch:
                self._views.clear()
                await trio.to_thread.run_sync(self._core.unseal, first)
                self._telemetry.count("epochs_unsealed")

    async def _keep_office(self) -> None:
        """Fill the bond, and say that we are there, where there was nothing to post for long."""
        with survive(self._telemetry, "the office"):
            await in_thread(self._fill_bond_and_show, deadline_s=CHAIN_DEADLINE_S)

    def _fill_bond_and_show(self) -> None:
        settlement = self._chain.settlement
        office = settlement.read_office()
        missing = settlement.terms.bond - office.bond
        if office.aggregator != self._chain.address:
            return
        if missing > 0:
            settlement.fund_bond(missing)
        # The last block may be old where nobody sends anything; the next one will not be. One that
        # was seen before says nothing new: our time would stand still.
        block = self._chain.rpc.get_block()
        if block.hash != self._seen_block:
            self._seen_block = block.hash
            self._ahead_s = max(0, block.timestamp - int(time.time()))
        share_s = settlement.terms.silence // ALIVE_SHARE
        is_due = office.silent_from - self._now() < (ALIVE_SHARE - 1) * share_s
        if self._shown_s is not None:  # a clock that nobody sets knows better than one that is off
            is_due = time.monotonic() >= self._shown_s + share_s
        if is_due:
            settlement.say_alive()
        if is_due or self._shown_s is None:
            self._shown_s = time.monotonic()

    def describe(self) -> dict[str, object]:
        """Describe where it stands, for people and JSON."""
        state = self._core.state
        return {
            "epoch": state.epoch,
            "posted": self._journal.last_posted(),
            "receipts": state.log.size,
            "unsealed": self._core.num_unsealed,
            "payout_total": state.header.payout_total if state.header else 0,
            "equivocations": [
                _describe_evidence(evidence, self._network)
                for evidence in self._ledger.evidence()[:MAX_SHOWN_EVIDENCE]
            ],
        }


def _describe_evidence(evidence: Evidence, network: Network) -> dict[str, object]:
    """Say who signed two receipts for one place; both signed bodies are in the ledger.

    Verified again: a file on a disk may have changed, and nobody is accused by that.
    """
    try:
        channel_id, sequence = verify_evidence(evidence, network)
    except ProofError as error:
        return {"broken": str(error)}
    first, second = (decode_receipt(data) for data in (evidence.first, evidence.second))
    receipt = decode_body(first.body)
    return {
        "channel": channel_id.hex(),
        "sequence": sequence,
        "operator": to_hex(receipt.operator),
        "client": to_hex(receipt.client),
        "receipts": [digest_of(first.body).hex(), digest_of(second.body).hex()],
    }


def _answer(
    envelope: VerifiedEnvelope, outcome: Outcome
) -> wire.Accepted | wire.Waiting | wire.Rejected:
    """Say to the node that delivered it what became of its receipt."""
    match outcome:
        case Accepted():
            return wire.Accepted(outcome.promises[0])
        case Duplicate():
            return wire.Accepted(outcome.promise)
        case Waiting():
            return wire.Waiting(
                f"receipts {outcome.first_missing} to {outcome.last_missing} of the channel come"
                " first"
            )
        case InGrace():
            return wire.Waiting(
                f"its client has not signed; until {outcome.until} (Unix s) it may show another"
            )
        case Rejected():
            reason = f"{outcome.invariant}: {outcome.reason}"[: wire.MAX_REASON_CHARS]
            return wire.Rejected(reason, outcome.retryable)
        case Equivocation():
            sequence = envelope.receipt.receipt.sequence
            return wire.Rejected(
                f"another receipt {sequence} of this channel is known", retryable=False
            )

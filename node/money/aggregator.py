"""The aggregator's role: hears receipts, promises, seals epochs, publishes batches, posts headers.

The deciding is in proofs.aggregator.

gossip and streams → envelope checked → channel read on chain → promise
every epoch: claimed totals read → sealed → batch in the block store → header posted, once
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio

from p2p.blocks.store import BlockStore
from p2p.errors import P2pError
from p2p.host import Host
from p2p.streams import FrameStream
from proofs.aggregator import (
    Accepted,
    Aggregator,
    ClaimDue,
    Duplicate,
    Equivocation,
    Outcome,
    Rejected,
    SealedEpoch,
    Waiting,
)
from proofs.chain.client import ChainClient
from proofs.chain.errors import ChainError
from proofs.chain.poster import Poster
from proofs.chain.structs import ChannelState, VoucherClaim
from proofs.chain.views import LATEST
from proofs.digest import Network
from proofs.envelope import VerifiedEnvelope, open_envelope
from proofs.errors import LedgerError, ProofError
from proofs.hextext import to_hex
from proofs.ledger import AggregatorLedger, Ledger, PostJournal
from proofs.promise import Evidence, verify_evidence
from proofs.receipt import decode_body, decode_receipt, digest_of
from proofs.signing import Signer

from ..survive import survive
from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire import receipts as wire

CHAIN_DEADLINE_S = 60.0
POST_DEADLINE_S = 300.0
VIEW_S = 45.0  # how long a channel's state is believed
MAX_VIEWS = 65_536
IDLE_DEADLINE_S = 60.0
MAX_SHOWN_EVIDENCE = 20


class AggregatorRole:
    """One network's aggregator.

    `receive` may be called from many streams; the lock gives the state one owner at a time.
    """

    def __init__(
        self,
        host: Host,
        store: BlockStore,
        chain: ChainClient,
        network: Network,
        signer: Signer,
        ledger: Ledger,
        telemetry: Telemetry,
    ) -> None:
        self._host = host
        self._store = store
        self._chain = chain
        self._network = network
        self._telemetry = telemetry
        self._address = signer.address
        self._ledger = AggregatorLedger(ledger)
        self._journal = PostJournal(ledger)
        self._poster = Poster(chain, self._journal)
        self._core = Aggregator(network, signer, self._ledger)
        self._views: dict[bytes, tuple[ChannelState, float]] = {}
        self._lock = trio.Lock()

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
        outcomes = [await self._take(data, stream.remote) for data in deliver.envelopes]
        await stream.send(msgspec.msgpack.encode(wire.Taken(outcomes)), wire.DELIVER_DEADLINE_S)

    async def _take(
        self, data: bytes, peer_id: str
    ) -> wire.Accepted | wire.Waiting | wire.Rejected:
        try:
            envelope = open_envelope(data, self._network)
        except ProofError as error:
            self._telemetry.reject("receipt", peer_id, str(error))
            return wire.Rejected(str(error)[: wire.MAX_REASON_CHARS], retryable=False)
        try:
            return _answer(envelope, await self.receive(envelope, peer_id))
        except (ChainError, LedgerError, trio.TooSlowError) as error:
            self._telemetry.log(
                f"aggregator: receipt {envelope.receipt.digest.hex()[:12]} waits: {error}"
            )
            return wire.Waiting(str(error)[: wire.MAX_REASON_CHARS])

    async def hear(self, envelope: VerifiedEnvelope, peer_id: str) -> None:
        """Take one verified receipt from gossip; what fails now is delivered again by its node."""
        try:
            await self.receive(envelope, peer_id)
        except (ChainError, LedgerError, trio.TooSlowError) as error:
            self._telemetry.log(
                f"aggregator: receipt {envelope.receipt.digest.hex()[:12]} waits: {error}"
            )

    async def receive(self, envelope: VerifiedEnvelope, peer_id: str) -> Outcome:
        """Take one verified receipt, from gossip or a stream."""
        view = await self._view(envelope)
        async with self._lock:
            outcome = self._core.receive(envelope, view)
        self._tell(outcome, envelope, peer_id)
        return outcome

    async def _view(self, envelope: VerifiedEnvelope) -> ChannelState:
        """The channel on chain, read again when it is old or no longer covers what is promised."""
        channel = envelope.voucher.channel_id
        now = trio.current_time()
        known = self._views.get(channel)
        if (
            known is None
            or known[1] < now - VIEW_S
            or known[0].balance < envelope.voucher.max_claimable_amount
        ):
            if len(self._views) >= MAX_VIEWS:
                self._views.clear()
            known = (
                await in_thread(self._chain.channels.read, channel, deadline_s=CHAIN_DEADLINE_S),
                now,
            )
            self._views[channel] = known
        return known[0]

    def _tell(self, outcome: Outcome, envelope: VerifiedEnvelope, peer_id: str) -> None:
        match outcome:
            case Accepted():
                self._telemetry.count("receipts_accepted", len(outcome.promises))
            case Duplicate():
                self._telemetry.count("receipts_duplicate")
            case Waiting():
                self._telemetry.count("receipts_out_of_order")
            case Rejected():
                self._telemetry.reject("receipt", peer_id, f"{outcome.invariant}: {outcome.reason}")
            case Equivocation():
                receipt = envelope.receipt.receipt
                reason = (
                    f"equivocation: two receipts {receipt.sequence} in channel"
                    f" {receipt.channel_id.hex()[:12]}"
                )
                self._telemetry.count("equivocations")
                self._telemetry.reject(
                    "receipt",
                    peer_id,
                    f"{reason}, both signed by 0x{receipt.operator.hex()} and"
                    f" 0x{receipt.client.hex()}",
                )

    # --- epochs ---

    async def run(self, epoch_s: float) -> None:
        """Publish and post what a restart left undone, then seal each epoch, until cancelled."""
        with survive(self._telemetry, "batches"):
            for epoch in range(1, self._ledger.last_epoch() + 1):
                sealed = self._ledger.find_epoch(epoch)
                assert sealed is not None
                await self._publish(sealed)
        while True:
            with survive(self._telemetry, "headers"):
                await self._post_all()
            await trio.sleep(epoch_s)
            with survive(self._telemetry, "epochs"):
                await self._seal()

    async def _seal(self) -> None:
        claimed = await in_thread(
            self._claim_and_read, self._core.claims_due(), deadline_s=CHAIN_DEADLINE_S
        )
        async with self._lock:
            sealed = self._core.seal(claimed)
        if sealed is not None:
            self._telemetry.count("epochs_sealed")
            self._telemetry.log(
                f"aggregator: sealed epoch {sealed.header.epoch}, {sealed.header.num_receipts}"
                " receipts in all"
            )
            await self._publish(sealed)

    def _claim_and_read(self, due: Sequence[ClaimDue]) -> dict[bytes, int]:
        """Claim the vouchers that are ours to claim (the others are their nodes'), and say how much
        of each channel is claimed.
        """
        channels = [claim.voucher.channel_id for claim in due]
        newest = self._read_claimed(channels, LATEST)
        ours = [
            VoucherClaim(claim.config, claim.voucher, claim.total)
            for claim in due
            if claim.config.receiver_authorizer == self._address
            and newest[claim.voucher.channel_id] < claim.total
        ]
        refused = self._chain.channels.claim(ours).refused
        for claim, error in refused:
            self._telemetry.log(
                f"aggregator: channel {claim.voucher.channel_id.hex()[:12]} is not claimed: {error}"
            )
        return self._read_claimed(channels, None)

    def _read_claimed(self, channels: Sequence[bytes], block: str | None) -> dict[bytes, int]:
        """How much of each channel is claimed, at a block or as deep as counts."""
        states = self._chain.channels.read_many(channels, block)
        return {
            channel: state.total_claimed for channel, state in zip(channels, states, strict=True)
        }

    async def _publish(self, sealed: SealedEpoch) -> None:
        """Make the batch fetchable by its digest."""
        cid = self._store.put(sealed.batch)
        try:
            await self._host.dht.provide(cid)
        except P2pError as error:
            self._telemetry.log(f"aggregator: batch {cid} was not advertised now: {error}")

    async def _post_all(self) -> None:
        """Post every sealed header that is not on the chain, or no longer, in order; the poster
        makes each happen once.
        """
        first = await in_thread(self._poster.first_unposted, deadline_s=CHAIN_DEADLINE_S)
        for epoch in range(first, self._ledger.last_epoch() + 1):
            sealed = self._ledger.find_epoch(epoch)
            assert sealed is not None
            posted = await in_thread(self._poster.post, sealed.header, deadline_s=POST_DEADLINE_S)
            self._telemetry.count("headers_posted")
            self._telemetry.log(f"aggregator: posted epoch {epoch} in 0x{posted.transaction.hex()}")

    def describe(self) -> dict[str, object]:
        """Where it stands, for people and JSON."""
        state = self._core.history.state
        return {
            "epoch": state.epoch,
            "posted": self._journal.last_posted(),
            "receipts": state.log.size,
            "payout_total": sum(state.payouts.values()),
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
        case Rejected():
            reason = f"{outcome.invariant}: {outcome.reason}"[: wire.MAX_REASON_CHARS]
            return wire.Rejected(reason, outcome.retryable)
        case Equivocation():
            sequence = envelope.receipt.receipt.sequence
            return wire.Rejected(
                f"another receipt {sequence} of this channel is known", retryable=False
            )

"""Takes receipts, keeps each channel's chain, seals epochs.

Sans-IO: envelopes come verified, the chain's numbers as arguments, memory is a store. Knows no
clock.

    receive:  next in its channel → accepted, with a promise     ahead of its turn → waits
              here already → duplicate
              another body for a taken place → evidence
    seal:     accepted receipts whose vouchers are claimed on chain → batch → header

Payouts never exceed what was claimed, because a receipt is sealed only when its channel's claimed
total covers its cumulative amount. So the settlement contract can always take the header. Every
change is in the store before it is in memory: killed anywhere, an aggregator that is restored from
its store goes on where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .batch import MAX_BATCH_BYTES, MAX_BATCH_RECEIPTS, compose, recompute
from .channel import ChannelTip
from .digest import Network
from .envelope import VerifiedEnvelope, open_envelope
from .epoch import EpochHeader
from .errors import ReceiptError, VoucherError
from .history import History
from .outcomes import Accepted, Duplicate, Equivocation, Outcome, Rejected, Waiting
from .promise import Evidence, Promise, make_promise, verify_evidence
from .receipt import decode_receipt
from .signing import Signer
from .voucher import ChannelConfig, Voucher
from .waiting import WaitingRoom

MAX_UNSEALED_PER_CHANNEL = 1_024  # accepted receipts whose voucher nobody claimed yet
MAX_UNSEALED = 65_536
BATCH_OVERHEAD_BYTES = 1_024


class ChannelView(Protocol):
    """A channel on the chain, as the caller read it lately."""

    @property
    def balance(self) -> int:
        """Return everything that was deposited and not taken back, claimed or not."""

    @property
    def total_claimed(self) -> int:
        """Return how much of the balance vouchers have claimed so far."""


@dataclass(frozen=True)
class ClaimDue:
    """A voucher to claim on chain, up to `total` in all, before the receipts that it pays for can
    be sealed.
    """

    config: ChannelConfig
    voucher: Voucher
    total: int


@dataclass(frozen=True)
class SealedEpoch:
    """A closed epoch: the header to post, and the batch to publish."""

    header: EpochHeader
    batch: bytes


class AggregatorStore(Protocol):
    """The aggregator's memory. What a method wrote is durable when it returns, all of it or
    nothing.
    """

    def batches(self) -> Iterable[bytes]:
        """Return all sealed batches, oldest first."""

    def unsealed(self) -> Iterable[bytes]:
        """Return the envelopes that were accepted and not sealed, in the order of acceptance."""

    def find_receipt(self, channel_id: bytes, sequence: int) -> bytes | None:
        """Return the accepted signed receipt in this place, or None."""

    def accept(self, envelopes: Sequence[VerifiedEnvelope]) -> None:
        """Add accepted envelopes. Raises LedgerConflict when a place is taken."""

    def keep_evidence(self, channel_id: bytes, sequence: int, evidence: Evidence) -> None:
        """Keep the first evidence for a place."""

    def seal(self, sealed: SealedEpoch, places: Sequence[tuple[bytes, int]]) -> None:
        """Add an epoch and mark its receipts as sealed. Raises LedgerConflict when the epoch
        exists.
        """


class Aggregator:
    """One aggregator of one network, restored from its store. Owned by one task.

    - For each channel, `_unsealed` holds without gaps the receipts between its last sealed one and
    its tip.
    - What was accepted once is never forgotten, and counts once.
    """

    def __init__(self, network: Network, signer: Signer, store: AggregatorStore) -> None:
        self.network = network
        self._signer = signer
        self._store = store
        self._waiting = WaitingRoom()
        self._unsealed: dict[
            tuple[bytes, int], VerifiedEnvelope
        ] = {}  # by channel and sequence, in order of acceptance
        self._num_unsealed: Counter[bytes] = Counter()
        self.history = History(network)
        for batch in store.batches():
            self.history.append(batch)
        self._tips: dict[bytes, ChannelTip] = dict(self.history.state.channels)
        for data in store.unsealed():
            envelope = open_envelope(data, network)
            self._advance([envelope], self._tip(envelope).follow(envelope.receipt, network))

    # ── receipts ──

    def receive(self, envelope: VerifiedEnvelope, view: ChannelView | None) -> Outcome:
        """Take one receipt.

        `view` is the channel on chain as the caller read it lately, None when it is not there.
        """
        receipt = envelope.receipt.receipt
        tip = self._tip(envelope)
        if receipt.sequence <= tip.sequence:
            return self._compare(envelope, self._get_accepted(receipt.channel_id, receipt.sequence))
        refusal = self._find_refusal(envelope, view)
        if refusal is not None:
            return refusal
        if receipt.sequence > tip.sequence + 1:
            return self._wait(envelope, tip)
        try:
            run, tip = self._collect_run(envelope, tip)
        except (ReceiptError, VoucherError) as error:
            return Rejected(error.invariant, str(error), retryable=False)
        # To the store first: a promise that a crash could forget would be evidence against us.
        self._store.accept(run)
        self._advance(run, tip)
        return Accepted(tuple(self.promise(taken.receipt.encoded) for taken in run))

    def promise(self, entry: bytes) -> Promise:
        """Promise to include an accepted signed receipt."""
        return make_promise(self._signer, entry, self.network)

    def _tip(self, envelope: VerifiedEnvelope) -> ChannelTip:
        return self._tips.get(envelope.receipt.receipt.channel_id) or ChannelTip(envelope.config)

    def _get_accepted(self, channel_id: bytes, sequence: int) -> bytes:
        unsealed = self._unsealed.get((channel_id, sequence))
        entry = (
            unsealed.receipt.encoded if unsealed else self._store.find_receipt(channel_id, sequence)
        )
        assert entry is not None, (
            f"the store forgot receipt {sequence} of channel {channel_id.hex()}"
        )
        return entry

    def _compare(self, envelope: VerifiedEnvelope, accepted: bytes) -> Duplicate | Equivocation:
        """Tell a receipt whose place is taken from the one that took it.

        The same body is a duplicate (other signatures under it make no other receipt); another one
        is evidence.
        """
        if decode_receipt(accepted).body == envelope.receipt.signed.body:
            return Duplicate(self.promise(accepted))
        return self._keep_evidence(envelope, accepted)

    def _keep_evidence(self, envelope: VerifiedEnvelope, rival: bytes) -> Equivocation:
        evidence = Evidence(rival, envelope.receipt.encoded)
        # whoever reads it later has nothing but these bytes, so nothing but these bytes is judged
        channel_id, sequence = verify_evidence(evidence, self.network)
        self._store.keep_evidence(channel_id, sequence, evidence)
        return Equivocation(evidence)

    def _find_refusal(
        self, envelope: VerifiedEnvelope, view: ChannelView | None
    ) -> Rejected | None:
        channel = envelope.voucher.channel_id
        amount = envelope.voucher.max_claimable_amount
        if view is None or not view.balance:
            return Rejected(
                "channel",
                f"the chain knows no money in channel {channel.hex()}",
                retryable=True,
            )
        if amount > view.balance:
            return Rejected(
                "balance",
                f"the voucher allows {amount}; the channel holds {view.balance}",
                retryable=True,
            )
        if (
            self._num_unsealed[channel] >= MAX_UNSEALED_PER_CHANNEL
            or len(self._unsealed) >= MAX_UNSEALED
        ):
            return Rejected(
                "unclaimed",
                "too many receipts wait for their vouchers to be claimed; claim, then send this"
                " again",
                retryable=True,
            )
        return None

    def _wait(
        self, envelope: VerifiedEnvelope, tip: ChannelTip
    ) -> Waiting | Rejected | Equivocation:
        receipt = envelope.receipt.receipt
        rival = self._waiting.find(receipt.channel_id, receipt.sequence)
        if rival is not None and rival.receipt.digest != envelope.receipt.digest:
            return self._keep_evidence(envelope, rival.receipt.encoded)
        if rival is None and not self._waiting.add(envelope):
            return Rejected(
                "waiting",
                f"no room to wait for receipt {tip.sequence + 1} of this channel; send that one"
                " first",
                retryable=True,
            )
        return Waiting(tip.sequence + 1, receipt.sequence - 1)

    def _collect_run(
        self, envelope: VerifiedEnvelope, tip: ChannelTip
    ) -> tuple[list[VerifiedEnvelope], ChannelTip]:
        """Collect this receipt and those that waited for it, as far as they follow one another."""
        run = [envelope]
        tip = tip.follow(envelope.receipt, self.network)
        while following := self._waiting.take(envelope.voucher.channel_id, tip.sequence + 1):
            try:
                tip = tip.follow(following.receipt, self.network)
            except (ReceiptError, VoucherError):
                # it follows another body than the one that came: whoever sends it again is told so
                break
            run.append(following)
        return run, tip

    def _advance(self, run: Iterable[VerifiedEnvelope], tip: ChannelTip) -> None:
        for envelope in run:
            channel = envelope.voucher.channel_id
            self._unsealed[channel, envelope.receipt.receipt.sequence] = envelope
            self._num_unsealed[channel] += 1
            self._tips[channel] = tip

    # ── epochs ──

    # A dict keeps the last envelope of each channel, whose cumulative amount covers all before it.
    def claims_due(self) -> list[ClaimDue]:
        """List the vouchers that cover what is accepted and not sealed, one for each channel.

        Some may be claimed already.
        """
        last = {channel: envelope for (channel, _), envelope in self._unsealed.items()}
        return [
            ClaimDue(envelope.config, envelope.voucher, self._tips[channel].cumulative)
            for channel, envelope in last.items()
        ]

    def seal(self, claimed: Mapping[bytes, int]) -> SealedEpoch | None:
        """Close an epoch over what is claimed; return None when that is nothing.

        `claimed` maps channel ids to `total_claimed` as the chain has it now; a channel that it
        does not name waits for a later epoch.
        """
        chosen = self._choose(claimed)
        if not chosen:
            return None
        configs = {envelope.voucher.channel_id: envelope.config for envelope in chosen}
        batch = compose([envelope.receipt for envelope in chosen], configs, self.history.state)
        state = recompute(batch, self.history.state)  # as any stranger will, before anybody is told
        assert state.header is not None
        sealed = SealedEpoch(state.header, batch)
        places = [
            (envelope.voucher.channel_id, envelope.receipt.receipt.sequence) for envelope in chosen
        ]
        self._store.seal(sealed, places)
        self.history.extend(batch, state)
        for channel, sequence in places:
            del self._unsealed[channel, sequence]
            self._num_unsealed[channel] -= 1
        self._num_unsealed += Counter()  # drops the zeros
        return sealed

    def _choose(self, claimed: Mapping[bytes, int]) -> list[VerifiedEnvelope]:
        """Choose what is claimed, oldest first, as much as surely fits into one batch."""
        chosen: list[VerifiedEnvelope] = []
        room = MAX_BATCH_BYTES - BATCH_OVERHEAD_BYTES
        for (channel, _), envelope in self._unsealed.items():
            if envelope.receipt.receipt.cumulative <= claimed.get(channel, 0):
                room -= _batch_bytes(envelope)
                if room < 0 or len(chosen) == MAX_BATCH_RECEIPTS:
                    break
                chosen.append(envelope)
        return chosen

    def check(self) -> None:
        """Raise AssertionError unless what the class promises holds."""
        self._waiting.check()
        assert Counter(channel for channel, _ in self._unsealed) == self._num_unsealed
        for channel, tip in self._tips.items():
            sealed = self.history.state.channels.get(channel)
            first = sealed.sequence + 1 if sealed else 1
            held = [sequence for owner, sequence in self._unsealed if owner == channel]
            assert held == list(range(first, tip.sequence + 1)), f"channel {channel.hex()} has gaps"
        assert sum(self.history.state.payouts.values()) == self.history.state.payout_tree.root.sum


def _batch_bytes(envelope: VerifiedEnvelope) -> int:
    """Return an upper bound of the bytes that one receipt adds to a batch: itself, its channel, and
    one payout for each share.
    """
    # 3 for the receipt's MessagePack header, 192 for a channel's configuration that it may open, 32
    # for an account and its amount.
    return len(envelope.receipt.encoded) + 3 + 192 + 32 * len(envelope.receipt.receipt.shares)


__all__ = [
    "Accepted",
    "Aggregator",
    "AggregatorStore",
    "ChannelView",
    "ClaimDue",
    "Duplicate",
    "Equivocation",
    "Outcome",
    "Rejected",
    "SealedEpoch",
    "Waiting",
]

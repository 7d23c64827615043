"""Takes receipts that are claimed, keeps each channel's chain, seals epochs.

Sans-IO: envelopes come verified, the chain's numbers, manifests' terms and the time as arguments;
memory is a store.

    receive:  not claimed on chain yet        → rejected for now; it needs no memory and no promise
              ahead of its turn               → waits
              its node's signature alone      → in grace, in which a co-signed one has its place
              next in its channel             → accepted, with a promise and its deadline
              no room in the next epoch       → rejected for now, with a place in the line
              here already                    → duplicate, the same promise
              another body for a taken place  → evidence
    recall:   promised once and forgotten, as with a lost disk: in the next epoch, without a word
    seal:     a fair choice of what is accepted and still claimed → batch → header

What is promised and not sealed fits one epoch: whatever happened meanwhile, the next one keeps
every promise.

Whatever grows by what strangers send is bounded by payer, so nobody's receipts keep out another's;
and who wants many payers needs claimed money in a channel of each. Every change is in the store
before it is in memory: killed anywhere, an aggregator that is restored from its store goes on where
it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .admission import Admission
from .attribution.shares import AdapterTerms, terms_of
from .batch import MAX_BATCH_ADAPTERS, MAX_BATCH_RECEIPTS, compose, decode_batch, recompute
from .channel import ChannelTip
from .cocktail import parse_adapter
from .digest import Network
from .envelope import Place, VerifiedEnvelope, open_envelope
from .epoch import EpochHeader
from .errors import ReceiptError, VoucherError
from .fair import FairQueue, Pledge
from .history import History
from .outcomes import Accepted, Duplicate, Equivocation, InGrace, Outcome, Rejected, Waiting
from .policies import UNGOVERNED, Policies
from .promise import Evidence, Promise, make_promise, verify_evidence
from .recall import Recalled
from .receipt import BARE_BASE, decode_body, decode_receipt, digest_of
from .signing import Signer
from .state import EpochState
from .waiting import Waiter, WaitingRoom

MAX_LEARNT = 1_024  # manifests in memory that no accepted receipt names, 64 KiB at most each
CHECKPOINT_RECEIPTS = 20_000  # after so many more, a checkpoint is due


@dataclass(frozen=True)
class Pace:
    """How fast an aggregator is, in seconds.

    `grace_s`: how long a client may still co-sign; `promise_s`: by when a receipt is in a header on
    chain, which is many epochs.
    """

    grace_s: int = 60
    promise_s: int = 600


PACE = Pace()


NEVER = (1 << 64) - 1


@dataclass(frozen=True)
class ChannelView:
    """A channel on the chain, as final as its reader demands.

    `total_claimed`: how much vouchers have claimed so far; 0 where there is no such channel.
    `left_at`: the second after which no header may move it, because it settles by itself; NEVER
    while headers may.
    """

    total_claimed: int
    left_at: int


@dataclass(frozen=True)
class SealedEpoch:
    """A closed epoch: the header to post, and the batch to publish."""

    header: EpochHeader
    batch: bytes


@dataclass(frozen=True)
class TakenReceipt:
    """An accepted receipt as the store remembers it: signed, and its promise's deadline."""

    receipt: bytes
    deadline: int


class AggregatorStore(Protocol):
    """The aggregator's memory. What a method wrote is durable when it returns, all of it or
    nothing. Any may raise LedgerError, and has then done nothing.
    """

    def batches(self, after: int) -> Iterable[bytes]:
        """Return all sealed batches after this epoch, oldest first."""

    def unsealed(self) -> Iterable[tuple[bytes, int]]:
        """Return the envelopes that were accepted and not sealed, with their promises' deadlines,
        in the order of acceptance.
        """

    def find_receipt(self, channel_id: bytes, sequence: int) -> TakenReceipt | None:
        """Return the accepted receipt in this place, or None."""

    def find_manifest(self, digest: bytes) -> bytes | None:
        """Return the bytes of a manifest, or None."""

    def accept(self, pledges: Sequence[Pledge], manifests: Mapping[bytes, bytes]) -> None:
        """Add accepted receipts, and the manifests that are new with them, by their digests.

        Raises LedgerConflict when a place is taken.
        """

    def upgrade(self, pledge: Pledge) -> None:
        """Put an accepted receipt's envelope in the stead of the one that is kept."""

    def keep_evidence(self, channel_id: bytes, sequence: int, evidence: Evidence) -> None:
        """Keep the first evidence for a place, and a bounded number for each channel."""

    def seal(
        self, sealed: SealedEpoch, places: Sequence[Place], recalled: Sequence[Recalled]
    ) -> None:
        """Add an epoch and mark its receipts as sealed, those that were recalled with their
        manifests. Raises LedgerConflict when the epoch exists.
        """

    def adopt(
        self,
        sealed: SealedEpoch,
        places: Sequence[tuple[Place, bytes]],
        manifests: Mapping[bytes, bytes],
        deadline: int,
    ) -> None:
        """Add an epoch that the chain has, with the manifests that are new in it: mark those of its
        receipts (place, digest of the body) that were accepted, add the others.
        """

    def unseal(self, first: int) -> None:
        """Take back all epochs from this one on; their receipts are accepted and not sealed."""

    def checkpoint(self) -> bytes | None:
        """Return the newest checkpoint, or None."""

    def keep_checkpoint(self, epoch: int, data: bytes) -> None:
        """Keep the checkpoint of the state after this epoch."""


class Aggregator:
    """One aggregator of one network, restored from its store. Owned by one task.

    - For each channel, `_queue` holds without gaps the receipts between its last sealed one and its
    tip.
    - What was accepted once is never forgotten, and counts once.
    - What is promised and can be sealed is never more than one epoch takes.
    """

    def __init__(
        self,
        network: Network,
        signer: Signer,
        store: AggregatorStore,
        pace: Pace = PACE,
        policies: Policies = UNGOVERNED,
    ) -> None:
        self.network = network
        self._signer = signer
        self._store = store
        self._pace = pace
        self._policies = policies  # those that a receipt may name now
        self._waiting = WaitingRoom()
        self._doubted: set[bytes] = set()  # channels that the last seal could not take
        self._recalled: dict[bytes, Recalled] = {}  # of each channel the next
        self._places = Admission(MAX_BATCH_RECEIPTS)
        self._namings = Admission(MAX_BATCH_ADAPTERS)  # of adapters that no epoch has named yet
        self._learnt: dict[bytes, tuple[AdapterTerms, bytes]] = {}  # the newest comes last
        self._restore()

    @property
    def state(self) -> EpochState:
        """Return the state after the last sealed epoch."""
        return self.history.state

    @property
    def num_unsealed(self) -> int:
        """Return how many accepted receipts no epoch has taken yet."""
        return len(self._queue)

    def promise_within(self, promise_s: int) -> None:
        """Promise from now on to have a receipt in a header within so many seconds."""
        self._pace = replace(self._pace, promise_s=promise_s)

    def divide_by(self, policies: Policies) -> None:
        """Take from now on receipts that name one of these; what was accepted before stays so."""
        self._policies = policies

    # ── receipts ──

    def receive(
        self,
        envelope: VerifiedEnvelope,
        view: ChannelView,
        terms: AdapterTerms | None,
        now: int,
    ) -> Outcome:
        """Take one receipt at `now` (Unix seconds).

        `view` is its channel on chain. `terms` are those of the
        manifest that the receipt names, which `learn` returned; None for the bare base.
        """
        receipt = envelope.receipt.receipt
        tip = self._tip(envelope)
        if receipt.sequence <= tip.sequence:
            return self._compare(envelope)
        refusal = self._find_refusal(envelope, view, terms, now)
        if refusal is not None:
            return refusal
        waiter = self._waiting.find(envelope.place)
        if waiter is not None and waiter.envelope.receipt.digest != envelope.receipt.digest:
            evidence = self._keep_evidence(envelope, waiter.envelope.receipt.encoded)
            if waiter.envelope.receipt.is_cosigned or not envelope.receipt.is_cosigned:
                return evidence
            waiter = None
        if waiter is None or envelope.receipt.is_cosigned:
            waiter = Waiter(envelope, terms, waiter.since if waiter else now)
        if receipt.sequence > tip.sequence + 1:
            missing = Waiting(tip.sequence + 1, receipt.sequence - 1)
            return self._wait(waiter, missing)
        try:
            tip.follow(waiter.envelope.receipt, self.network, terms, self._policies)
        except (ReceiptError, VoucherError) as error:
            return Rejected(error.invariant, str(error), retryable=False)
        if not self._is_ripe(waiter, now):
            return self._wait(waiter, InGrace(waiter.since + self._pace.grace_s))
        return self._find_room(envelope, now) or self._accept(waiter, tip, now)

    def learn(self, manifest: bytes, digest: bytes) -> AdapterTerms:
        """Take an adapter's manifest, and return what attribution reads in it.

        Kept for a while; for good with the first accepted receipt that names it. Raises
        ManifestError when it is none, AssertionError when the digest is another's.
        """
        known = self.find_terms(digest)
        if known is not None:
            return known
        assert digest_of(manifest) == digest, "fetched by its digest"
        terms = terms_of(parse_adapter(manifest))
        if len(self._learnt) >= MAX_LEARNT:
            del self._learnt[next(iter(self._learnt))]
        self._learnt[digest] = terms, manifest
        return terms

    def find_terms(self, digest: bytes) -> AdapterTerms | None:
        """Return the terms of a manifest that is known here, or None."""
        known = self.state.adapters.get(digest) or self._new_terms.get(digest)
        if known is None and digest in self._learnt:
            known, _ = self._learnt[digest]
        return known

    def _tip(self, envelope: VerifiedEnvelope) -> ChannelTip:
        channel_id = envelope.voucher.channel_id
        tip = self._tips.get(channel_id) or self.state.find_tip(channel_id)
        return tip or ChannelTip(envelope.config)

    def _find_refusal(
        self,
        envelope: VerifiedEnvelope,
        view: ChannelView,
        terms: AdapterTerms | None,
        now: int,
    ) -> Rejected | None:
        receipt = envelope.receipt.receipt
        channel = receipt.channel_id.hex()
        if view.total_claimed < receipt.cumulative:
            return Rejected(
                "unclaimed",
                f"the chain says that {view.total_claimed} of channel {channel} is claimed; claim"
                f" {receipt.cumulative}, then send this again",
                retryable=True,
            )
        if not self._is_open(view, now):
            return Rejected(
                "left", f"channel {channel} settles by itself, by an exit", retryable=False
            )
        try:
            self._policies.of(receipt.parameters)
        except ReceiptError as error:  # a later version may be in force soon
            is_early = receipt.parameters > self._policies.last
            return Rejected(error.invariant, str(error), retryable=is_early)
        if receipt.adapter != BARE_BASE and (
            terms is None or self.find_terms(receipt.adapter) != terms
        ):
            return Rejected(
                "manifest",
                f"the manifest of adapter {receipt.adapter.hex()} is not here yet; provide it, then"
                " send this again",
                retryable=True,
            )
        return None

    def _find_room(self, envelope: VerifiedEnvelope, now: int) -> Rejected | None:
        """Refuse for now what the next epoch has no room for: nothing else is ever promised."""
        payer = envelope.payer
        held = self._queue.num_of(payer)
        if not self._places.admits(payer, held, self._num_open, now):
            return Rejected(
                "room",
                f"the next epoch is full: {self._num_open} receipts are promised, {held} of this"
                " payer; send this again soon, in its turn it is taken",
                retryable=True,
            )
        if not self._has_room_for(envelope.receipt.receipt.adapter, payer, now):
            return Rejected(
                "room",
                f"the next epoch is full: {len(self._new_terms)} adapters in it are new; send this"
                " again soon, in its turn it is taken",
                retryable=True,
            )
        return None

    @property
    def _num_open(self) -> int:
        """Count what the next epoch must take. What is not claimed any more, nobody can ask for."""
        doubted = sum(map(self._queue.num_of_channel, self._doubted))
        return len(self._queue) - doubted + len(self._recalled)

    def _is_new(self, adapter: bytes) -> bool:
        """Return whether no epoch has named this adapter yet."""
        return adapter != BARE_BASE and adapter not in self.state.adapters

    def _has_room_for(self, adapter: bytes, payer: bytes, now: int) -> bool:
        if not self._is_new(adapter) or adapter in self._new_terms:
            return True
        named = {pledge.envelope.receipt.receipt.adapter for pledge in self._queue.line(payer)}
        held = sum(map(self._is_new, named))
        return self._namings.admits(payer, held, len(self._new_terms), now)

    def _is_open(self, view: ChannelView, now: int) -> bool:
        """Return whether a header that is posted in time may move this channel."""
        return view.left_at > now + self._pace.promise_s

    def _is_ripe(self, waiter: Waiter, now: int) -> bool:
        is_over = now >= waiter.since + self._pace.grace_s
        return waiter.envelope.receipt.is_cosigned or is_over

    def _wait(self, waiter: Waiter, outcome: Waiting | InGrace) -> Waiting | InGrace | Rejected:
        if self._waiting.add(waiter):
            return outcome
        return Rejected(
            "waiting",
            "too many receipts of this payer wait for others; send the first of them first",
            retryable=True,
        )

    def _accept(self, waiter: Waiter, tip: ChannelTip, now: int) -> Accepted:
        run, tip = self._collect_run(waiter, tip, now)
        pledges = [Pledge(taken.envelope, now + self._pace.promise_s) for taken in run]
        manifests = {
            adapter: self._learnt[adapter][1]
            for adapter in map(_adapter, (taken.envelope for taken in run))
            if self._is_new(adapter) and adapter not in self._new_terms
        }
        # To the store first: a promise that a crash could forget would be evidence against us.
        self._store.accept(pledges, manifests)
        for taken, pledge in zip(run, pledges, strict=True):
            self._waiting.remove(pledge.envelope.place)
            self._enqueue(pledge, taken.terms)
        self._tips[waiter.envelope.place[0]] = tip
        return Accepted(tuple(self._promise(pledge) for pledge in pledges))

    def _enqueue(self, pledge: Pledge, terms: AdapterTerms | None) -> None:
        self._queue.append(pledge)
        adapter = _adapter(pledge.envelope)
        if terms is not None and self._is_new(adapter):
            self._new_terms[adapter] = terms
            self._learnt.pop(adapter, None)

    def _collect_run(
        self, waiter: Waiter, tip: ChannelTip, now: int
    ) -> tuple[list[Waiter], ChannelTip]:
        """Collect this receipt, for which there is room, and those that waited for it, as far as
        they follow one another and the room goes.
        """
        channel_id, sequence = waiter.envelope.place
        held = self._queue.num_of(waiter.envelope.payer)
        run: list[Waiter] = []
        following: Waiter | None = waiter
        while following is not None:
            envelope = following.envelope
            if not self._is_ripe(following, now):
                break
            if self.find_terms(_adapter(envelope)) != following.terms:
                break  # its manifest was forgotten meanwhile
            if run and not self._has_room_behind(run, envelope, held, now):
                break
            try:
                tip = tip.follow(envelope.receipt, self.network, following.terms, self._policies)
            except (ReceiptError, VoucherError):
                # It follows another body than the one that came: whoever sends it again is told so.
                self._waiting.remove(envelope.place)
                break
            run.append(following)
            sequence += 1
            following = self._waiting.find((channel_id, sequence))
        return run, tip

    def _has_room_behind(
        self, run: Sequence[Waiter], envelope: VerifiedEnvelope, held: int, now: int
    ) -> bool:
        """Return whether the next epoch has room for one more receipt behind a run.

        Of a new adapter the run's first receipt brings at most one: others come by themselves.
        """
        adapter = _adapter(envelope)
        is_known = not self._is_new(adapter) or adapter in self._new_terms
        taken = self._num_open + len(run)
        return (is_known or adapter == _adapter(run[0].envelope)) and self._places.admits(
            envelope.payer, held + len(run), taken, now
        )

    def _promise(self, pledge: Pledge) -> Promise:
        return make_promise(self._signer, pledge.envelope.receipt, pledge.deadline, self.network)

    def _compare(self, envelope: VerifiedEnvelope) -> Duplicate | Equivocation:
        """Tell a receipt whose place is taken from the one that took it.

        The same body is a duplicate (other signatures under it make no other receipt); another one
        is evidence.
        """
        pledge = self._queue.find(envelope.payer, envelope.place)
        taken = (
            TakenReceipt(pledge.envelope.receipt.encoded, pledge.deadline)
            if pledge
            else self._store.find_receipt(*envelope.place)
        )
        assert taken is not None, f"the store forgot receipt {envelope.place}"
        if digest_of(decode_receipt(taken.receipt).body) != envelope.receipt.digest:
            return self._keep_evidence(envelope, taken.receipt)
        if pledge and envelope.receipt.is_cosigned and not pledge.envelope.receipt.is_cosigned:
            upgraded = Pledge(envelope, pledge.deadline)
            self._store.upgrade(upgraded)
            self._queue.replace(upgraded)
        return Duplicate(self._promise(Pledge(envelope, taken.deadline)))

    def _keep_evidence(self, envelope: VerifiedEnvelope, rival: bytes) -> Equivocation:
        evidence = Evidence(rival, envelope.receipt.encoded)
        # Whoever reads it later has nothing but these bytes, so nothing but these bytes is judged.
        channel_id, sequence = verify_evidence(evidence, self.network)
        self._store.keep_evidence(channel_id, sequence, evidence)
        return Equivocation(evidence)

    # ── epochs ──

    def channels_due(self, now: int) -> list[bytes]:
        """List the channels that the next epoch would settle, to be read from the chain before
        `seal`.
        """
        chosen = self._choose(
            now, lambda pledge: pledge.envelope.place[0] not in self._doubted, MAX_BATCH_RECEIPTS
        )
        due = dict.fromkeys(self._recalled)
        due |= dict.fromkeys(pledge.envelope.place[0] for pledge in chosen)
        due |= dict.fromkeys(sorted(self._doubted)[:MAX_BATCH_RECEIPTS])
        return list(due)

    def seal(self, views: Mapping[bytes, ChannelView], now: int) -> SealedEpoch | None:
        """Close an epoch over what is claimed; return None when that is nothing.

        `views` are the channels as the chain has them now, by their ids. One that is not there,
        whose claim a reorganisation took back, or that has left, waits for a later epoch and holds
        up no other. Takes up to a second: call it from a thread.
        """

        recalled = self._choose_recalled(views, now)
        uncovered = set[bytes]()
        adapters = set(filter(self._is_new, (one.receipt.receipt.adapter for one in recalled)))

        def is_covered(pledge: Pledge) -> bool:
            channel = pledge.envelope.place[0]
            view = views.get(channel)
            receipt = pledge.envelope.receipt.receipt
            if (
                view is None
                or view.total_claimed < receipt.cumulative
                or not self._is_open(view, now)
            ):
                uncovered.add(channel)
                return False
            if self._is_new(receipt.adapter):
                if len(adapters | {receipt.adapter}) > MAX_BATCH_ADAPTERS:
                    return False
                adapters.add(receipt.adapter)
            return True

        chosen = self._choose(now, is_covered, MAX_BATCH_RECEIPTS - len(recalled))
        # Asked about, and not claimed any more: next time they come last.
        self._doubted = (self._doubted - views.keys()) | (uncovered & views.keys())
        if not chosen and not recalled:
            return None
        configs = {pledge.envelope.place[0]: pledge.envelope.config for pledge in chosen}
        configs |= {one.place[0]: one.config for one in recalled}
        receipts = [pledge.envelope.receipt for pledge in chosen]
        batch = compose([*receipts, *(one.receipt for one in recalled)], configs, self.state)
        manifests = self._manifests(batch)
        manifests |= {one.receipt.receipt.adapter: one.manifest for one in recalled}
        # As any stranger will, before anybody is told.
        transition = recompute(batch, self.state, manifests, self._policies.every)
        sealed = SealedEpoch(transition.header, batch)
        self._store.seal(sealed, [pledge.envelope.place for pledge in chosen], recalled)
        self.state.apply(transition)
        self._drop(chosen)
        self._drop_kept()
        return sealed

    def recall(self, recalled: Recalled) -> bool:
        """Take up a receipt again that was promised here and forgotten: it is in the next epoch.

        Return whether there is something to do: not where the channel has come as far, in an epoch
        or among what is promised.
        """
        channel, sequence = recalled.place
        tip = self._tips.get(channel) or self.state.find_tip(channel) or ChannelTip(recalled.config)
        if sequence <= tip.sequence:
            return False
        tip.follow(recalled.receipt, self.network, recalled.terms, self._policies)
        self._recalled[channel] = recalled
        return True

    def _choose_recalled(self, views: Mapping[bytes, ChannelView], now: int) -> list[Recalled]:
        """Choose what was recalled and is claimed, with as many new adapters as an epoch may name.

        Where the queue has its channel, it has another receipt for the place.
        """
        chosen: list[Recalled] = []
        adapters = set[bytes]()
        for channel, one in sorted(self._recalled.items(), key=lambda item: item[1].deadline):
            body = one.receipt.receipt
            view = views.get(channel)
            if view is None or view.total_claimed < body.cumulative:
                continue
            if not self._is_open(view, now) or self._queue.has_channel(channel):
                continue
            more = {body.adapter} if self._is_new(body.adapter) else set()
            if len(adapters | more) > MAX_BATCH_ADAPTERS or len(chosen) == MAX_BATCH_RECEIPTS:
                continue
            adapters |= more
            chosen.append(one)
        return chosen

    def _drop_kept(self) -> None:
        """Forget what was recalled and is in an epoch, or has another receipt in its place."""
        for channel, one in list(self._recalled.items()):
            tip = self.state.find_tip(channel)
            if tip is not None and tip.sequence >= one.place[1]:
                del self._recalled[channel]

    def unseal(self, first: int) -> None:
        """Take back the sealed epochs from `first` on, because the chain will not take their
        headers any more: a reorganisation took back what they stand on. Their receipts are sealed
        again when they are claimed again.

        Only for headers that are not on the chain, and no longer in the way there.
        """
        assert 1 <= first <= self.state.epoch, f"epoch {first} is not sealed"
        self._store.unseal(first)
        if not self.history.revert(first - 1):
            self._restore()
        else:
            self._reload()

    def adopt(
        self,
        batch: bytes,
        manifests: Mapping[bytes, bytes],
        now: int,
        policies: Policies = UNGOVERNED,
    ) -> SealedEpoch:
        """Go on from a batch whose header the chain has, as when this ledger is rebuilt.

        Raises BatchError when it does not continue this state.
        """
        transition = recompute(batch, self.state, manifests, policies)
        new = {digest: manifests[digest] for digest in decode_batch(batch).adapters}
        sealed = SealedEpoch(transition.header, batch)
        places = [_place_of(data) for data in decode_batch(batch).receipts]
        self._store.adopt(sealed, places, new, deadline=now + self._pace.promise_s)
        self.state.apply(transition)
        self._reload()
        return sealed

    @property
    def is_checkpoint_due(self) -> bool:
        """Return whether a restart would have much to verify."""
        header = self.state.header
        return (
            header is not None and header.num_receipts >= self._checkpointed + CHECKPOINT_RECEIPTS
        )

    def write_checkpoint(self) -> None:
        """Write the state down, so that a restart verifies only what comes after it."""
        header = self.state.header
        assert header is not None, "there is nothing to write down"
        self._store.keep_checkpoint(header.epoch, self.history.write_checkpoint(self._signer))
        self._checkpointed = header.num_receipts

    def _choose(
        self,
        now: int,
        is_covered: Callable[[Pledge], bool],
        limit: int,
    ) -> list[Pledge]:
        # A full batch of the largest receipts, each with a new channel and adapter, is below the
        # bound of its bytes.
        urgent_until = now + self._pace.promise_s // 2
        return self._queue.choose(limit, urgent_until, is_covered)

    def _drop(self, pledges: Sequence[Pledge]) -> None:
        self._queue.remove(pledges)
        for channel in {pledge.envelope.place[0] for pledge in pledges}:
            if not self._queue.has_channel(channel):
                del self._tips[channel]
        for adapter in self.state.adapters.keys() & self._new_terms.keys():
            del self._new_terms[adapter]

    def _manifests(self, batch: bytes) -> dict[bytes, bytes]:
        found = {
            digest: self._store.find_manifest(digest) for digest in decode_batch(batch).adapters
        }
        return {digest: data for digest, data in found.items() if data is not None}

    # ── memory ──

    def _restore(self) -> None:
        """Read everything back: the last checkpoint, the batches after it, what is not sealed."""
        self.history = History(self.network)
        checkpoint = self._store.checkpoint()
        if checkpoint is not None:
            self.history.restore(checkpoint, self._signer.address)
        self._checkpointed = self.state.log.size
        for batch in self._store.batches(self.state.epoch):
            self.history.append(batch, self._manifests(batch), policies=self._policies.every)
        self._reload()

    def _reload(self) -> None:
        """Read back what is accepted and not sealed."""
        self._queue = FairQueue()
        self._tips: dict[bytes, ChannelTip] = {}
        self._new_terms: dict[bytes, AdapterTerms] = {}  # of adapters that are first in the queue
        for data, deadline in self._store.unsealed():
            envelope = open_envelope(data, self.network)
            terms = self._read_terms(_adapter(envelope))
            tip = self._tip(envelope)
            policies = self._policies.every
            self._tips[envelope.place[0]] = tip.follow(
                envelope.receipt, self.network, terms, policies
            )
            self._enqueue(Pledge(envelope, deadline), terms)
        self._doubted = {channel for channel in self._doubted if self._queue.has_channel(channel)}

    def _read_terms(self, adapter: bytes) -> AdapterTerms | None:
        """Return the terms of an adapter that an accepted receipt names."""
        known = self.state.adapters.get(adapter) or self._new_terms.get(adapter)
        if known is None and adapter != BARE_BASE:
            data = self._store.find_manifest(adapter)
            assert data is not None, f"the store forgot manifest {adapter.hex()}"
            known = terms_of(parse_adapter(data))
        return known

    def check(self) -> None:
        """Raise AssertionError unless what the class promises holds."""
        self._waiting.check()
        self._queue.check()
        for pledge in self._queue:
            assert pledge.envelope.place[1] <= self._tips[pledge.envelope.place[0]].sequence
        for channel, tip in self._tips.items():
            sealed = self.state.find_tip(channel)
            first = sealed.sequence + 1 if sealed else 1
            held = [
                pledge.envelope.place[1]
                for pledge in self._queue
                if pledge.envelope.place[0] == channel
            ]
            assert held == list(range(first, tip.sequence + 1)), f"channel {channel.hex()} has gaps"
            assert held, "a tip of a channel that is sealed"
        assert all(self._queue.has_channel(channel) for channel in self._doubted)
        named = {_adapter(pledge.envelope) for pledge in self._queue}
        assert self._new_terms.keys() == set(filter(self._is_new, named))
        assert not self._learnt.keys() & self._new_terms.keys()


def _adapter(envelope: VerifiedEnvelope) -> bytes:
    return envelope.receipt.receipt.adapter


def _place_of(data: bytes) -> tuple[Place, bytes]:
    body = decode_receipt(data).body
    receipt = decode_body(body)
    return (receipt.channel_id, receipt.sequence), digest_of(body)


__all__ = [
    "NEVER",
    "Accepted",
    "Aggregator",
    "AggregatorStore",
    "ChannelView",
    "Duplicate",
    "Equivocation",
    "InGrace",
    "Outcome",
    "Pace",
    "Pledge",
    "Rejected",
    "SealedEpoch",
    "TakenReceipt",
    "Waiting",
]

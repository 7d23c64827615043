"""An honest aggregator over real contracts, one step at a time, whose machine and chain fail it;
and somebody who holds everything that it ever signed and wants its bond.

It does what node/money/aggregator.py, reminders.py and responding.py do, by the same parts.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

from proofs.aggregator import Accepted, Aggregator, ChannelView, Duplicate, Pace, SealedEpoch
from proofs.batch import moved_by, recompute
from proofs.chain.anchoring import find_anchor
from proofs.chain.client import ChainClient
from proofs.chain.errors import ContractReverted
from proofs.chain.evm import MemoryChain, Rejected
from proofs.chain.poster import Poster
from proofs.chain.structs import Anchor, PostedHeader
from proofs.channel import ChannelTip
from proofs.court import Case, Facts, find_lies, keeps
from proofs.envelope import VerifiedEnvelope, open_envelope, seal_envelope
from proofs.errors import ProofError
from proofs.ledger import AggregatorLedger, Ledger, PostJournal
from proofs.promise import Promise, Reminder
from proofs.recall import Recalled, read_reminder
from proofs.receipt import BARE_BASE, NO_SIGNATURE, SignedReceipt
from proofs.signing import Signer
from proofs.state import EpochState
from proofs.voucher import NO_ADDRESS, ChannelConfig, sign_voucher
from tests.proofs import scene
from tests.proofs.chain.world import NAMES, World, address, memory_world, secret

CONFIRMATIONS = 3  # what it takes for final; reorganisations go deeper
PACE = Pace(grace_s=0, promise_s=300)
DEPOSIT = 40_000
NUM_CHANNELS = 3
PARTIES = ("payer", "operator")


@dataclass
class Channel:
    """A channel of a node that signs whatever it likes, also two receipts for one place."""

    config: ChannelConfig
    tips: list[ChannelTip]
    envelopes: list[VerifiedEnvelope] = field(default_factory=list)

    def go_on(self, client: ChainClient, tip: ChannelTip, tokens: int) -> VerifiedEnvelope:
        """Sign a receipt that follows a tip."""
        network = client.network
        body = scene.receipt(
            tip, parties=PARTIES, tokens=tokens, adapter=BARE_BASE, network=network
        )
        signed = scene.sign(body, *PARTIES, network=network)
        payer = Signer(secret("payer"))
        voucher = sign_voucher(payer, body.channel_id, body.cumulative, network)
        envelope = open_envelope(seal_envelope(signed, voucher, self.config), network)
        self.envelopes.append(envelope)
        self.tips.append(tip.follow(envelope.receipt, network, None))
        return envelope


class Honest:
    """The aggregator. What it gives away, `given` keeps for whoever wants to convict it."""

    def __init__(self, world: World) -> None:
        self.client = world.client("aggregator", confirmations=CONFIRMATIONS)
        self.batches: dict[bytes, SealedEpoch] = {}  # published: others have them for ever
        self.given: dict[bytes, Reminder] = {}
        self.ledger = Ledger(":memory:")
        self.restart()

    def restart(self) -> None:
        """Begin again with what the disk has."""
        self.store = AggregatorLedger(self.ledger)
        self.core = Aggregator(self.client.network, Signer(secret("aggregator")), self.store, PACE)
        self.poster = Poster(self.client, PostJournal(self.ledger))

    def lose_disk(self) -> None:
        """Begin again with nothing but the chain and the published batches."""
        self.ledger = Ledger(":memory:")
        self.restart()
        self._catch_up()

    def take(self, envelope: VerifiedEnvelope) -> None:
        """Take a receipt, and promise it."""
        view = self.view_many([envelope.place[0]])[envelope.place[0]]
        outcome = self.core.receive(envelope, view, None, self.now)
        match outcome:
            case Accepted():
                promises: tuple[Promise, ...] = outcome.promises
            case Duplicate():
                promises = (outcome.promise,)
            case _:
                return
        for promise in promises:
            if promise.body == envelope.receipt.digest:
                signed = envelope.receipt.signed
                alone = SignedReceipt(signed.body, signed.node_signature, NO_SIGNATURE)
                reminder = Reminder(promise, envelope.config, alone, b"")
                self.given[promise.signature] = reminder

    def step(self) -> None:
        """One epoch: what is open is recalled, sealed, posted, answered."""
        self._catch_up()
        office = self.client.settlement.read_office()
        if office.silent_from - self.now < self.client.settlement.terms.silence // 2:
            self.client.settlement.say_alive()
        if self._post_all():
            for one in self.reminders():
                try:
                    self.core.recall(one)
                except ProofError:
                    continue
            self._seal()
            self._post_all()
        self._answer()

    @property
    def now(self) -> int:
        return self.client.rpc.get_block().timestamp

    def view_many(self, channels: list[bytes]) -> dict[bytes, ChannelView]:
        """Read channels as deep as counts."""
        states = self.client.channels.read_many(channels)
        left = self.left_at(channels)
        return {
            channel: ChannelView(state.total_claimed, left.get(channel, (1 << 64) - 1))
            for channel, state in zip(channels, states, strict=True)
        }

    def left_at(self, channels: list[bytes]) -> dict[bytes, int]:
        return self.client.settlement.left_at_many(channels)

    def anchor(self, moved: dict[bytes, int]) -> Anchor | None:
        return find_anchor(self.client, moved)

    def reminders(self) -> list[Recalled]:
        """Read the promises that somebody demands and that are not shown kept."""
        court = self.client.settlement.court
        first, last = self.client.deployment.first_block, self.client.rpc.block_number()
        found = court.stood(first, last).items()
        return [
            read_reminder(reminder, self.client.network)
            for demand_id, reminder in found
            if court.is_open(demand_id)
        ]

    def _catch_up(self) -> None:
        for posted in self.client.settlement.headers():
            if posted.header.epoch > self.core.state.epoch:
                batch = self.batches[posted.header.hash].batch
                self.core.adopt(batch, {}, self.now)

    def _seal(self) -> None:
        due = self.core.channels_due(self.now)
        sealed = self.core.seal(self.view_many(due), self.now) if due else None
        if sealed is not None:
            self.batches[sealed.header.hash] = sealed

    def _post_all(self) -> bool:
        for epoch in range(self.poster.first_unposted(), self.store.last_epoch() + 1):
            sealed = self.store.find_epoch(epoch)
            assert sealed is not None
            if self.poster.find(sealed.header) is not None:
                continue
            anchor = self.anchor(moved_by(sealed.batch))
            try:
                if anchor is not None:
                    self.poster.post(sealed.header, anchor=anchor, deadline_s=2)
                    continue
            except ContractReverted as error:
                if error.error not in ("PayoutExceedsReceived", "WrongPrevious"):
                    raise
            self.core.unseal(epoch)
            return False
        return True

    def _answer(self) -> None:
        """Show what is demanded of the last header, as a respondent does."""
        settlement = self.client.settlement
        state = self.core.state
        posted = settlement.find_header(state.epoch)
        if posted is None or posted.header != state.header:
            return
        for one in self.reminders():
            promise = self._promise_of(one)
            index = state.find_channel(promise.channel_id)
            if index is not None and keeps(state.channel(index).leaf, promise):
                settlement.court.answer_stand(promise, posted, state.show_channel(index))
        first, last = self.client.deployment.first_block, self.client.rpc.block_number()
        for channel in set(settlement.forced(first, last)):
            index = state.find_channel(channel)
            forced = settlement.find_forced(channel)
            if index is None or forced is None or self.now > forced.deadline:
                continue
            if state.channel(index).leaf.sequence >= forced.sequence:
                settlement.answer_forced(posted, state.show_channel(index))

    def _promise_of(self, one: Recalled) -> Promise:
        found = (each.promise for each in self.given.values())
        return next(
            each
            for each in found
            if each.body == one.receipt.digest and each.deadline == one.deadline
        )


@dataclass
class Trial:
    """One aggregator, its chain, and its enemy."""

    world: World
    chain: MemoryChain
    honest: Honest
    chance: random.Random
    base: int  # no reorganisation goes below this block
    channels: list[Channel] = field(default_factory=list)

    def mine(self, number: int) -> None:
        for _ in range(number):
            self.chain.mine()

    # ── what happens ──

    def serve(self, at: int | None = None, *, only: bool = False) -> None:
        """A node signs one more receipt, claims it, and delivers all that it has, or that one."""
        at = self.chance.randrange(len(self.channels)) if at is None else at
        channel = self.channels[at]
        client = self.world.client("operator")
        tip = channel.tips[-1]
        if self.chance.random() < 0.1:  # another one for a place that it signed for before
            tip = self.chance.choice(channel.tips)
        envelope = channel.go_on(client, tip, self.chance.randrange(1, 5))
        self.claim(at)
        self.mine(CONFIRMATIONS)
        if only:
            self.honest.take(envelope)
        else:
            self.deliver()

    def claim(self, at: int) -> None:
        """Claim what a channel's receipts cost, as far as it is not claimed."""
        channel = self.channels[at]
        total = max(tip.cumulative for tip in channel.tips)
        voucher = self.world.voucher(channel.config, total)
        self.world.client("operator").channels.claim([voucher])

    def deliver(self) -> None:
        for channel in self.channels:
            for envelope in channel.envelopes:
                self.honest.take(envelope)

    def force(self, at: int | None = None) -> None:
        """Somebody forces a receipt: what no header has of it, the channel leaves with."""
        at = self.chance.randrange(len(self.channels)) if at is None else at
        channel = self.channels[at]
        settlement = self.world.client("other").settlement
        if not channel.envelopes:
            return
        leaf = self._leaf(self.chance.choice(channel.envelopes))
        try:
            settlement.force(channel.config, leaf[0], leaf[1])
        except ContractReverted:
            return

    def reorganise(self) -> None:
        """The chain goes another way: some of what it had comes again, in another block."""
        head = int(self.chain.head.block_number)
        depth = min(self.chance.randrange(1, 21), head - self.base)
        dropped = self.chain.revert_to(head - depth)
        names = [name for name in NAMES if self.chance.random() < 0.7]
        self.resend(dropped, *names)
        self.mine(self.chance.randrange(1, 4))

    def resend(self, dropped: list[bytes], *names: str) -> None:
        """Have the transactions of these come into blocks again."""
        senders = [address(name) for name in names]
        for raw in dropped:
            if bytes(self.chain._decode(raw).sender) in senders:
                with suppress(Rejected):  # one before it was not mined
                    self.chain.send(raw)

    def sleep(self) -> None:
        """Let time pass in which the aggregator is away."""
        self.world.wait(self.chance.choice((10, 200, 400, 1_500, 4_000)))

    # ── who wants its bond ──

    def attack(self) -> None:
        """Show the court everything that there is."""
        court = self.world.client("anybody").settlement.court
        posted = list(self.world.client("anybody").settlement.headers())
        self._accuse(posted)
        self._stand(posted)
        for reminder in self.honest.given.values():
            for here in posted:
                for term in (1, 2):
                    try_it(court.convict_broken, reminder.promise, term, here)
        office = self.world.client("anybody").settlement.aggregator()
        assert office != NO_ADDRESS, "an honest aggregator was convicted"

    def _accuse(self, posted: list[PostedHeader]) -> None:
        client = self.world.client("anybody")
        before = EpochState(client.network)
        after = EpochState(client.network)
        for number, one in enumerate(posted):
            sealed = self.honest.batches[one.header.hash]
            after.apply(recompute(sealed.batch, after, {}))
            ids = [after.channel(index).leaf.channel_id for index in range(after.channels.size)]
            states = client.channels.read_many(ids, "latest")
            facts = Facts(
                one.posted_at,
                {each: state.total_claimed for each, state in zip(ids, states, strict=True)},
                client.settlement.left_at_many(ids),
            )
            for lie in find_lies(Case(before, one.header, facts), after):
                earlier = posted[number - 1] if number else None
                try_it(client.settlement.court.prove, one, earlier, lie)
            before.apply(recompute(sealed.batch, before, {}))

    def _stand(self, posted: list[PostedHeader]) -> None:
        """Ask for every promise, going on from every header that has the receipt before."""
        client = self.world.client("anybody")
        state = EpochState(client.network)
        for one in posted:
            state.apply(recompute(self.honest.batches[one.header.hash].batch, state, {}))
        for reminder in self.honest.given.values():
            index = state.find_channel(reminder.promise.channel_id)
            earlier = None if index is None else state.show_channel(index)
            here = posted[-1] if posted else None
            try_it(client.settlement.court.stand, reminder, here, earlier)

    def _leaf(self, envelope: VerifiedEnvelope):
        from proofs.draft import leaf_of_receipt

        signed = envelope.receipt.signed
        return leaf_of_receipt(signed, envelope.receipt.receipt), signed.node_signature


@cache
def opened() -> tuple[World, MemoryChain, int]:
    """A chain with open channels, and money that no header awards; the height at which each trial
    begins.
    """
    world, chain = memory_world()
    for number in range(NUM_CHANNELS):
        world.client("payer").channels.deposit(world.config(number=number), DEPOSIT)
    world.earn(10 * DEPOSIT)
    for _ in range(CONFIRMATIONS):
        chain.mine()
    chain.finalized_depth = None
    return world, chain, int(chain.head.block_number)


def begin(seed: int, kind: type[Honest]) -> Trial:
    """A trial of an aggregator of this kind."""
    world, chain, height = opened()
    chain.revert_to(height, time_too=True)
    configs = [world.config(number=number) for number in range(NUM_CHANNELS)]
    channels = [Channel(config, [ChannelTip(config)]) for config in configs]
    return Trial(world, chain, kind(world), random.Random(seed), height, channels)


def try_it(call, *values: object) -> None:
    """Send what the contract takes."""
    try:
        call(*values)
    except ContractReverted:
        return


EVENTS = (
    "serve",
    "serve",
    "serve",
    "step",
    "step",
    "reorganise",
    "sleep",
    "force",
    "restart",
    "lose_disk",
    "attack",
)


def run(trial: Trial, num_events: int) -> None:
    """Let things happen, and the enemy try after each; raise AssertionError where it wins."""
    for _ in range(num_events):
        event = trial.chance.choice(EVENTS)
        owner = trial.honest if event in ("step", "restart", "lose_disk") else trial
        getattr(owner, event)()
        if trial.chance.random() < 0.25:
            trial.attack()
    for _ in range(3):  # what was demanded runs out
        trial.attack()
        trial.world.wait(trial.chance.choice((250, 1_100)))
        trial.honest.step()
    trial.attack()

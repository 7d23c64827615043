"""What a node does with what the aggregator says to each receipt, and what is shown as evidence."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio

from node.money.aggregator import AggregatorRole
from node.money.delivering import Delivery, read_promised
from node.telemetry import Telemetry
from node.wire.receipts import Accepted, Deliver, Promised, Rejected, Taken, Waiting
from p2p.errors import PeerUnreachable
from proofs.aggregator import PACE
from proofs.envelope import VerifiedEnvelope, decode_envelope
from proofs.errors import ProofError
from proofs.ledger import AggregatorLedger, Ledger, Outbox, OutboxState
from proofs.promise import Evidence, Promise, make_promise
from proofs.signing import Signer
from tests.proofs.scene import NETWORK, chain, replace_network, signer

AGGREGATOR = signer("aggregator")
STRANGER = signer("stranger")


DEADLINE = 1_800_000_000  # Unix s


def promised(one: VerifiedEnvelope, by: Signer = AGGREGATOR) -> Accepted:
    return Accepted(make_promise(by, one.receipt, DEADLINE, NETWORK))


@dataclass
class TwinAggregator:
    """A host with one peer, which says `answers` to what is delivered; none: it is away."""

    peer_id: str = "me"
    answers: dict[bytes, Accepted | Waiting | Rejected] = field(default_factory=dict)
    delivered: list[list[bytes]] = field(default_factory=list)
    gossiped: list[Promised] = field(default_factory=list)
    num_tries: int = 0

    @asynccontextmanager
    async def open_stream(
        self, peer_id: str, protocol: str, deadline_s: float
    ) -> AsyncIterator[TwinAggregator]:
        await trio.lowlevel.checkpoint()
        assert (peer_id, protocol) == ("aggregator", "/lorikeet/receipts/3")
        self.num_tries += 1
        if not self.answers:
            raise PeerUnreachable("away")
        yield self

    async def send(self, data: bytes, deadline_s: float) -> None:
        await trio.lowlevel.checkpoint()
        self.delivered.append(msgspec.msgpack.decode(data, type=Deliver).envelopes)

    async def receive(self, deadline_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        return msgspec.msgpack.encode(
            Taken([self.answers[envelope] for envelope in self.delivered[-1]])
        )

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        assert topic == "promises"
        self.gossiped.append(msgspec.msgpack.decode(data, type=Promised))

    @property
    def gossip(self) -> TwinAggregator:
        return self


class Scene:
    """A node with three receipts to deliver; all of its channel is claimed, as far as `claimed`."""

    def __init__(self) -> None:
        self.envelopes = chain(3)
        self.claimed = self.envelopes[-1].receipt.receipt.cumulative
        self.outbox = Outbox(Ledger(":memory:"))
        self.host = TwinAggregator()
        self.promises: list[Promise] = []
        self.lines = io.StringIO()
        self.telemetry = Telemetry(stream=self.lines)
        host: Any = self.host
        self.delivery = Delivery(
            host,
            self.outbox,
            self.telemetry,
            NETWORK,
            aggregator="aggregator",
            address=lambda: AGGREGATOR.address,
            is_claimed=lambda channel_id, cumulative: cumulative <= self.claimed,
            on_promise=lambda promise, _: self.promises.append(promise),
        )
        for one in self.envelopes:
            self.outbox.add(one.receipt.signed, one.encoded)

    async def deliver_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.delivery.run(5.0)

    def states(self) -> list[OutboxState]:
        return [entry.state for entry in reversed(self.outbox.newest(10))]


async def test_a_promise_is_kept_and_its_receipt_sent_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    scene.host.answers = {one.encoded: promised(one) for one in scene.envelopes}
    await scene.deliver_for(60)
    assert scene.states() == [OutboxState.PROMISED] * 3
    assert len(scene.host.delivered) == 1
    assert [(one.envelope, one.promise.deadline) for one in scene.host.gossiped] == [
        (one.encoded, DEADLINE) for one in scene.envelopes
    ]
    assert scene.promises == [entry.promise for entry in scene.outbox.promised()]
    assert len(scene.promises) == 3


async def test_what_a_promise_that_ran_out_did_not_bring_is_sent_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    late, *others = scene.envelopes
    scene.host.answers = {one.encoded: promised(one) for one in others}
    broken = make_promise(AGGREGATOR, late.receipt, 1_600_000_000, NETWORK)
    scene.host.answers[late.encoded] = Accepted(broken)
    await scene.deliver_for(12)
    first, *later = scene.host.delivered
    assert len(first) == 3
    assert later == [[late.encoded]] * 2


async def test_only_what_is_claimed_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene()
    scene.host.answers = {one.encoded: promised(one) for one in scene.envelopes}
    scene.claimed = scene.envelopes[0].receipt.receipt.cumulative
    await scene.deliver_for(12)
    assert {envelope for sent in scene.host.delivered for envelope in sent} == {
        scene.envelopes[0].encoded
    }
    assert scene.states() == [OutboxState.PROMISED] + [OutboxState.QUEUED] * 2
    scene.claimed = scene.envelopes[-1].receipt.receipt.cumulative
    scene.delivery.send_soon()
    await scene.deliver_for(1)
    assert scene.states() == [OutboxState.PROMISED] * 3


async def test_a_promise_of_somebody_else_is_no_promise(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    scene.host.answers = {one.encoded: promised(one, by=STRANGER) for one in scene.envelopes}
    await scene.deliver_for(12)
    assert scene.states() == [OutboxState.QUEUED] * 3
    assert len(scene.host.delivered) == 3
    assert scene.host.gossiped == []


async def test_what_waits_or_may_be_taken_later_is_sent_again_and_what_is_refused_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    waiting, retryable, refused = (one.encoded for one in scene.envelopes)
    scene.host.answers = {
        waiting: Waiting("receipt 1 comes first"),
        retryable: Rejected("balance: too little", retryable=True),
        refused: Rejected("previous: another one", retryable=False),
    }
    await scene.deliver_for(12)
    first, *later = scene.host.delivered
    assert sorted(first) == sorted(scene.host.answers)
    assert len(later) == 2
    assert all(sorted(again) == sorted([waiting, retryable]) for again in later)


async def test_an_aggregator_that_is_away_is_asked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    await scene.deliver_for(12)
    assert scene.host.delivered == []
    scene.host.answers = {one.encoded: promised(one) for one in scene.envelopes}
    await scene.deliver_for(12)
    assert scene.states() == [OutboxState.PROMISED] * 3


async def test_an_aggregator_that_stays_away_is_asked_less_often_and_told_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.delivery.run, 5.0)
        for _ in range(600):
            await trio.sleep(1)
            scene.delivery.send_soon()  # whatever is claimed meanwhile
        assert scene.host.num_tries <= 15
        assert scene.lines.getvalue().count("takes no receipts now") == 1
        scene.host.answers = {one.encoded: promised(one) for one in scene.envelopes}
        await trio.sleep(61)
        nursery.cancel_scope.cancel()
    assert scene.states() == [OutboxState.PROMISED] * 3
    assert scene.lines.getvalue().count("works again") == 1


async def test_why_a_receipt_waits_is_told_when_it_changes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    scene.host.answers = {one.encoded: Waiting("its turn") for one in scene.envelopes}
    await scene.deliver_for(52)
    assert scene.lines.getvalue().count("is not taken: its turn") == 3
    scene.host.answers = {one.encoded: Waiting("its grace") for one in scene.envelopes}
    await scene.deliver_for(52)
    assert scene.lines.getvalue().count("is not taken: ") == 6


def test_what_is_gossiped_is_a_receipt_that_this_aggregator_promised() -> None:
    one, other, _ = chain(3)
    promise = make_promise(AGGREGATOR, one.receipt, DEADLINE, NETWORK)
    good = msgspec.msgpack.encode(Promised(one.encoded, promise))
    assert read_promised(good, NETWORK, AGGREGATOR.address) == promise
    short = msgspec.structs.replace(decode_envelope(one.encoded), voucher_amount=1)
    unpaid = msgspec.msgpack.encode(short)
    strange = make_promise(STRANGER, one.receipt, DEADLINE, NETWORK)
    lies = [
        b"garbage",
        good + bytes(2_000),
        msgspec.msgpack.encode([*msgspec.msgpack.decode(good), 1]),
        msgspec.msgpack.encode(Promised(one.encoded, strange)),
        msgspec.msgpack.encode(Promised(other.encoded, promise)),
        msgspec.msgpack.encode(Promised(unpaid, promise)),
    ]
    for lie in lies:
        with pytest.raises(ProofError):
            read_promised(lie, NETWORK, AGGREGATOR.address)
    with pytest.raises(ProofError):
        read_promised(good, NETWORK, STRANGER.address)
    with pytest.raises(ProofError):
        read_promised(good, replace_network(chain_id=1), AGGREGATOR.address)


def test_evidence_that_no_longer_holds_accuses_nobody() -> None:
    ledger = Ledger(":memory:")
    parts: dict[str, Any] = {
        "published": None,
        "chain": SimpleNamespace(network=NETWORK, wallet=None),
        "quorum": None,
        "decisions": None,
    }
    role = AggregatorRole(
        **parts,
        signer=AGGREGATOR,
        ledger=ledger,
        telemetry=Telemetry(stream=io.StringIO()),
        pace=PACE,
    )
    one, other = (envelope.receipt.encoded for envelope in chain(2))
    AggregatorLedger(ledger).keep_evidence(bytes(32), 1, Evidence(one, other))
    AggregatorLedger(ledger).keep_evidence(bytes(32), 2, Evidence(one, one[:-1]))
    shown = role.describe()["equivocations"]
    assert isinstance(shown, list)
    assert [set(each) for each in shown] == [{"broken"}] * 2
    assert "different places" in shown[0]["broken"]

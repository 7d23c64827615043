"""What a node does with what the aggregator says to each receipt, and what is shown as evidence."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import trio

from node.money.aggregator import AggregatorRole
from node.money.settlement import Settlement
from node.telemetry import Telemetry
from node.wire.receipts import Accepted, Deliver, Rejected, Taken, Waiting
from p2p.errors import PeerUnreachable
from proofs.ledger import AggregatorLedger, Ledger, Outbox, OutboxState
from proofs.promise import Evidence, make_promise
from tests.proofs.scene import NETWORK, chain, signer

AGGREGATOR = signer("aggregator")
STRANGER = signer("stranger")


@dataclass
class TwinAggregator:
    """A host with one peer, which says `answers` to what is delivered; none: it is away."""

    peer_id: str = "me"
    answers: dict[bytes, Accepted | Waiting | Rejected] = field(default_factory=dict)
    delivered: list[list[bytes]] = field(default_factory=list)

    @asynccontextmanager
    async def open_stream(
        self, peer_id: str, protocol: str, deadline_s: float
    ) -> AsyncIterator[TwinAggregator]:
        await trio.lowlevel.checkpoint()
        assert (peer_id, protocol) == ("aggregator", "/lorikeet/receipts/3")
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

    @property
    def gossip(self) -> TwinAggregator:
        return self


class Scene:
    """A node with three receipts to deliver."""

    def __init__(self) -> None:
        self.envelopes = chain(3)
        self.outbox = Outbox(Ledger(":memory:"))
        self.host = TwinAggregator()
        self.telemetry = Telemetry(stream=io.StringIO())
        parts: dict[str, Any] = {
            "host": self.host,
            "chain": None,
            "outbox": self.outbox,
            "book": None,
            "mirror": SimpleNamespace(network=NETWORK),
            "telemetry": self.telemetry,
        }
        self.settlement = Settlement(
            **parts,
            aggregator="aggregator",
            aggregator_address=AGGREGATOR.address,
            operator=bytes(20),
            accounts=[],
        )
        for one in self.envelopes:
            self.outbox.add(one.receipt.signed, one.encoded)

    async def deliver_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.settlement.run_outbox(5.0)

    def states(self) -> list[OutboxState]:
        return [entry.state for entry in reversed(self.outbox.newest(10))]


async def test_a_promise_is_kept_and_its_receipt_sent_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    scene.host.answers = {
        one.encoded: Accepted(make_promise(AGGREGATOR, one.receipt.encoded, NETWORK))
        for one in scene.envelopes
    }
    await scene.deliver_for(60)
    assert scene.states() == [OutboxState.PROMISED] * 3
    assert len(scene.host.delivered) == 1


async def test_a_promise_of_somebody_else_is_no_promise(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    scene.host.answers = {
        one.encoded: Accepted(make_promise(STRANGER, one.receipt.encoded, NETWORK))
        for one in scene.envelopes
    }
    await scene.deliver_for(12)
    assert scene.states() == [OutboxState.GOSSIPED] * 3
    assert len(scene.host.delivered) == 3


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
    scene.host.answers = {
        one.encoded: Accepted(make_promise(AGGREGATOR, one.receipt.encoded, NETWORK))
        for one in scene.envelopes
    }
    await scene.deliver_for(12)
    assert scene.states() == [OutboxState.PROMISED] * 3


def test_evidence_that_no_longer_holds_accuses_nobody() -> None:
    ledger = Ledger(":memory:")
    parts: dict[str, Any] = {"host": None, "store": None, "chain": SimpleNamespace(wallet=None)}
    role = AggregatorRole(
        **parts,
        network=NETWORK,
        signer=AGGREGATOR,
        ledger=ledger,
        telemetry=Telemetry(stream=io.StringIO()),
    )
    one, other = (envelope.receipt.encoded for envelope in chain(2))
    AggregatorLedger(ledger).keep_evidence(bytes(32), 1, Evidence(one, other))
    AggregatorLedger(ledger).keep_evidence(bytes(32), 2, Evidence(one, one[:-1]))
    shown = role.describe()["equivocations"]
    assert isinstance(shown, list)
    assert [set(each) for each in shown] == [{"broken"}] * 2
    assert "different places" in shown[0]["broken"]

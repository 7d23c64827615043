"""Both sides of the counter, given the messages of the golden vectors, say what the vectors say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.errors import NoChannel
from node.money.book import ChannelBook
from node.money.till import Till
from node.telemetry import Telemetry
from node.wire import infer as wire
from node.wire.channels import ChannelFacts, ChannelRow, Funds, PayerChannel
from node.wire.metering import Deal
from node.wire.notary import Notary
from proofs.chain.structs import ChannelState
from proofs.ledger import Ledger
from proofs.receipt import digest_of
from proofs.voucher import ChannelConfig
from tests.golden import other
from tests.golden.receipts import POLICIES, TERMS
from tests.golden.talks import CHANNEL, DEPOSIT
from tests.golden.world import CLIENT, CONFIG, NETWORK, NODE

TALKS = {talk["name"]: talk for talk in other.load("infer")["talks"]}
CHANNELS = other.load("channel")
CLIENT_PEER = other.load("infer")["client"]["peer_id"]


class Chain:
    """A chain on which every channel holds the same."""

    def read(self, channel_id: bytes, shallow: int = 0) -> ChannelState:
        return ChannelState(DEPOSIT, 0, 0, 0, refund_nonce=0)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[ChannelBook]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ChannelBook(ledger)
    ledger.close()


@pytest.fixture
def till(book: ChannelBook) -> Till:
    return Till(
        Notary(NODE, NETWORK),
        book,
        Chain(),
        lambda receipt, row: None,
        telemetry=Telemetry(),
        on_withdrawal=lambda: None,
        has_left=lambda _: False,
        grace_s=60.0,
        shallow=0,
        clock=time.time,
    )


def config_of(vector: dict[str, Any]) -> ChannelConfig:
    return ChannelConfig(
        **{
            name: value if isinstance(value, int) else other.unhex(value)
            for name, value in vector["config"].items()
        }
    )


@pytest.mark.parametrize("vector", CHANNELS["accept"], ids=lambda vector: vector["why"])
async def test_a_node_takes_these_channels(till: Till, vector: dict[str, Any]) -> None:
    tab = till.open(CLIENT_PEER, CLIENT.address, config_of(vector))
    assert tab.channel.channel_id.hex() == vector["channel_id"]


@pytest.mark.parametrize("vector", CHANNELS["refuse"], ids=lambda vector: vector["why"])
async def test_a_node_refuses_these_channels(till: Till, vector: dict[str, Any]) -> None:
    with pytest.raises(NoChannel):
        till.open(CLIENT_PEER, CLIENT.address, config_of(vector))


class Replay:
    """One talk's messages, one after the other."""

    def __init__(self, name: str) -> None:
        decoders = {"client": wire.decode_from_client, "node": wire.decode_from_node}
        self.messages = [
            decoders[each["from"]](other.unhex(each["hex"])) for each in TALKS[name]["messages"]
        ]
        self.derived = TALKS[name]["derived"]
        self.deal = Deal.close(
            self.only(wire.Ask),
            self.only(wire.Offer),
            client_seed=self.only(wire.Begin).client_seed,
            salt=self.only(wire.Begin).salt,
            operator=NODE.address,
            channel_id=CHANNEL,
            terms=TERMS,
            policy=POLICIES.of(self.only(wire.Offer).parameters),
        )
        self.answer = [token for each in self.all(wire.Output) for token in each.token_ids]

    def all(self, kind: type[wire.M]) -> list[wire.M]:
        return [message for message in self.messages if isinstance(message, kind)]

    def only(self, kind: type[wire.M]) -> wire.M:
        (message,) = self.all(kind)
        return message

    @property
    def payments(self) -> list[wire.Pay]:
        first = self.only(wire.Begin).payment
        assert first is not None
        return [first, *self.all(wire.Pay)]


async def test_the_node_takes_the_vouchers_and_writes_the_receipts(till: Till) -> None:
    channel = till.open(CLIENT_PEER, CLIENT.address, CONFIG).channel
    channel.note(ChannelFacts(DEPOSIT, is_withdrawing=False), now=0.0)
    paid, broken, pending = (Replay(name) for name in ("paid", "broken", "pending"))
    for talk in (paid, broken, pending):
        if talk is pending:
            assert channel.pending is not None
            assert channel.pending.body == talk.only(wire.Pending).body
            channel.settle(talk.all(wire.Settle)[0].signature)
        key = channel.new_key()
        for payment in talk.payments:
            channel.check_voucher(payment)
            channel.raise_voucher(payment)
            channel.reserve(key, payment.limit)
        draft = channel.draft(key, talk.deal, talk.answer, 0).row.drafts[-1]
        assert draft.body.hex() == talk.derived["body"]
        assert draft.node_signature.hex() == talk.derived["node_signature"]
        if talk is not broken:
            assert draft.body == talk.only(wire.Done).body
            channel.settle(talk.all(wire.Settle)[-1].signature)
    assert channel.pending is None


def test_the_client_gives_the_vouchers_and_signs_the_receipts() -> None:
    row = ChannelRow(CHANNEL, NODE.address, CONFIG, funds=Funds(deposit=DEPOSIT))
    channel = PayerChannel(row, Notary(CLIENT, NETWORK))
    paid, broken, pending = (Replay(name) for name in ("paid", "broken", "pending"))
    for talk in (paid, broken, pending):
        if talk is pending:
            shown = talk.only(wire.Pending)
            signed = channel.cosign_pending(shown.body, shown.node_signature)
            assert signed.signature == talk.all(wire.Settle)[0].signature
        key = channel.begin(talk.deal)
        for payment in talk.payments:
            assert channel.pay(key, payment.limit).pay == payment
        if talk is broken:
            channel.leave(key)
            continue
        done = talk.only(wire.Done)
        assert done.node_signature is not None
        signed = channel.cosign(
            key, talk.deal, talk.answer, done.body, node_signature=done.node_signature
        )
        assert signed.digest == digest_of(done.body)
        assert signed.receipt.amount == talk.derived["receipt"]["amount"]
        assert signed.signature == talk.all(wire.Settle)[-1].signature

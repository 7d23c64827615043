"""Both sides of the counter, given the messages of the golden vectors, say what the vectors say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.errors import NoChannel
from node.money.book import ChannelBook, ChannelRow
from node.money.metering import Deal
from node.money.purse import Pocket
from node.money.till import Till
from node.money.vault import Vault
from node.wire import infer as wire
from proofs.chain.structs import ChannelState
from proofs.receipt import digest_of
from proofs.voucher import ChannelConfig
from tests.golden import other
from tests.golden.talks import CHANNEL, DEPOSIT
from tests.golden.world import CLIENT, CONFIG, NETWORK, NODE

TALKS = {talk["name"]: talk for talk in other.load("infer")["talks"]}
CHANNELS = other.load("channel")
CLIENT_PEER = other.load("infer")["client"]["peer_id"]


def read_channel(channel: bytes) -> ChannelState:
    """Every channel holds the same."""
    return ChannelState(DEPOSIT, 0, 0, 0, refund_nonce=0)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[ChannelBook]:
    book = ChannelBook(tmp_path / "ledger.sqlite")
    yield book
    book.close()


@pytest.fixture
def till(book: ChannelBook) -> Till:
    return Till(
        NODE, NETWORK, book, read_channel, lambda receipt, row: None, on_withdrawal=lambda: None
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
    tab = await till.open(CLIENT_PEER, CLIENT.address, config_of(vector))
    assert tab.channel_id.hex() == vector["channel_id"]


@pytest.mark.parametrize("vector", CHANNELS["refuse"], ids=lambda vector: vector["why"])
async def test_a_node_refuses_these_channels(till: Till, vector: dict[str, Any]) -> None:
    with pytest.raises(NoChannel):
        await till.open(CLIENT_PEER, CLIENT.address, config_of(vector))


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
            self.only(wire.Begin),
            operator=NODE.address,
            channel_id=CHANNEL,
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
    tab = await till.open(CLIENT_PEER, CLIENT.address, CONFIG)
    paid, broken, pending = (Replay(name) for name in ("paid", "broken", "pending"))
    for talk in (paid, broken, pending):
        if talk is pending:
            assert tab.pending is not None
            assert tab.pending.body == talk.only(wire.Pending).body
            tab.settle(talk.all(wire.Settle)[0].signature)
        key = tab.new_key()
        for payment in talk.payments:
            await tab.take(key, payment)
        draft = tab.draft(key, talk.deal, talk.answer)
        assert draft.body.hex() == talk.derived["body"]
        assert draft.node_signature.hex() == talk.derived["node_signature"]
        if talk is not broken:
            assert draft.body == talk.only(wire.Done).body
            tab.settle(talk.all(wire.Settle)[-1].signature)
    assert tab.pending is None


async def test_the_client_gives_the_vouchers_and_signs_the_receipts(book: ChannelBook) -> None:
    vault = Vault(lambda config, amount: None, read_channel, 1, DEPOSIT)
    row = ChannelRow(CHANNEL, NODE.address, CONFIG)
    pocket = Pocket(
        row,
        DEPOSIT,
        CLIENT,
        NETWORK,
        book,
        vault=vault,
        on_receipt=lambda receipt: None,
    )
    paid, broken, pending = (Replay(name) for name in ("paid", "broken", "pending"))
    for talk in (paid, broken, pending):
        if talk is pending:
            shown = talk.only(wire.Pending)
            signature = pocket.cosign_pending(shown.body, shown.node_signature)
            assert signature == talk.all(wire.Settle)[0].signature
        key = pocket.new_key()
        for payment in talk.payments:
            assert await pocket.pay(key, payment.limit) == payment
        if talk is broken:
            pocket.leave(key)
            continue
        done = talk.only(wire.Done)
        assert done.node_signature is not None
        digest, amount, signature = pocket.cosign(
            key, talk.deal, talk.answer, done.body, done.node_signature
        )
        assert digest == digest_of(done.body)
        assert amount == talk.derived["receipt"]["amount"]
        assert signature == talk.all(wire.Settle)[-1].signature

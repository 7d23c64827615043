"""An answer that goes on in the channel in which it broke off: two receipts, one seed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from node.errors import BadRequest, NodeAtOdds
from node.wire import infer as wire
from node.wire.channels import ChannelRow, PayerChannel
from node.wire.metering import FIRST, Deal, Position
from node.wire.node_session import NodeSession, NodeTerms
from node.wire.notary import Notary
from node.wire.session import Fail
from proofs.attribution.shares import POLICY
from proofs.receipt import derive_shares, digest_of, encode_body
from proofs.voucher import channel_id
from tests.proofs.economy import NETWORK, STARTED_AT, config, signer

from .two_sided import BASE, PRICE, READY, TERMS

NODE = Notary(signer("node"), NETWORK)
CLIENT = Notary(signer("client"), NETWORK)
CONFIG = config("client", "node", 0)
CHANNEL = channel_id(CONFIG, NETWORK)
ASK = wire.Ask(
    version=wire.VERSION,
    base=BASE,
    adapter=bytes(32),
    cocktail=b"",
    prompt_ids=[1, 2, 3],
    max_tokens=8,
    terms=TERMS,
    logprobs=None,
    stop_ids=[],
    seed_commitment=bytes(32),
    client=CLIENT.address,
    channel=CONFIG,
    resumed=None,
    attributed=False,
)


def close(ask: wire.Ask, salt: bytes) -> Deal:
    offer = wire.Offer(
        node_seed=salt * 2,
        paid=True,
        prompt_price=PRICE.prompt,
        completion_price=PRICE.completion,
        owner=NODE.address,
        dtype=b"float32",
        started_at=STARTED_AT,
        attributed=False,
        parameters=0,
    )
    return Deal.close(
        ask,
        offer,
        client_seed=bytes(32),
        salt=salt,
        operator=NODE.address,
        channel_id=CHANNEL,
        terms=None,
        policy=POLICY,
    )


def goes_on(first: Deal, made: Sequence[int]) -> Deal:
    ask = msgspec.structs.replace(
        first.ask,
        prompt_ids=[*first.ask.prompt_ids, *made],
        max_tokens=first.ask.max_tokens - len(made),
        resumed=wire.Resumed(first.seed, len(made)),
    )
    return close(ask, b"second salt of 1")


def promised(*deals: Deal) -> PayerChannel:
    """A client that paid for these requests and lost them."""
    row = ChannelRow(CHANNEL, NODE.address, CONFIG)
    payer = PayerChannel(row, CLIENT)
    payer.note(msgspec.structs.replace(row.funds, deposit=100_000))
    for deal in deals:
        key = payer.begin(deal)
        payer.pay(key, deal.cost(8))
        payer.leave(key)
    return payer


def shown(deal: Deal, position: Position, ids: Sequence[int]) -> tuple[bytes, bytes]:
    receipt = deal.receipt(NETWORK, position, ids)
    return encode_body(receipt), NODE.sign_receipt(receipt)


def test_the_second_part_has_the_seed_of_the_first() -> None:
    first = close(ASK, b"first salt of 16")
    second = goes_on(first, [7, 8])
    assert second.seed == first.seed
    receipt = second.receipt(NETWORK, FIRST, [9])
    assert (receipt.prompt_tokens, receipt.completion_tokens) == (5, 1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1,)])
def test_each_receipt_finds_the_part_that_it_is_for(order: tuple[int, ...]) -> None:
    first = close(ASK, b"first salt of 16")
    parts = [(first, [7, 8]), (goes_on(first, [7, 8]), [9, 10, 11])]
    payer = promised(*(deal for deal, _ in parts))
    position = FIRST
    for number in order:
        deal, ids = parts[number]
        body, signature = shown(deal, position, ids)
        signed = payer.cosign_pending(body, signature)
        assert signed.receipt.completion_tokens == len(ids)
        receipt = signed.receipt
        position = Position(
            receipt.sequence + 1,
            digest_of(body),
            receipt.cumulative,
            position.payouts.award(derive_shares(receipt, deal.terms), receipt.amount),
        )
        payer.check()


def test_no_part_is_billed_twice() -> None:
    first = close(ASK, b"first salt of 16")
    payer = promised(first, goes_on(first, [7, 8]))
    body, signature = shown(first, FIRST, [7, 8])
    receipt = payer.cosign_pending(body, signature).receipt
    paid = FIRST.payouts.award(derive_shares(receipt, first.terms), receipt.amount)
    after = Position(2, digest_of(body), receipt.cumulative, paid)
    with pytest.raises(NodeAtOdds, match=r"prompt_tokens|prompt_commitment"):
        payer.cosign_pending(*shown(first, after, [7, 8]))


@pytest.mark.parametrize("num_answered", [3, 4, 8_192])
def test_a_question_must_be_left(num_answered: int) -> None:
    terms = NodeTerms(BASE, NODE.address, NODE.address, PRICE, is_paid=False, engine=READY)
    session = NodeSession(terms, node_seed=bytes(32), clock=lambda: float(STARTED_AT))
    session.start(0.0)
    ask = msgspec.structs.replace(ASK, resumed=wire.Resumed(bytes(32), num_answered))
    (fail,) = session.receive(ask, 0.0)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, BadRequest)
    assert "begin with a question" in str(fail.error)

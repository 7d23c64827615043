"""What a client or a node tries that wants more than its due, event by event."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from node.errors import NoChannel, NodeAtOdds, NodeCheated, PaymentRequired
from node.wire import infer as wire
from node.wire import node_session as node
from node.wire.channels import ChannelFacts, PayeeChannel, PayerChannel
from node.wire.session import PeerGone
from proofs.attribution.shares import POLICY, AdapterTerms, parties_of
from proofs.receipt import decode_body, encode_body

from .test_sessions import answering, error_of
from .two_sided import BASE, LAW, PRICE, Stream, World

THIEF = b"\x66" * 20


def vouch(world: World, amount: int) -> bytes:
    return world.payer_notary.sign_voucher(world.payee.channel_id, amount)


def take_money_back(world: World, left: int) -> None:
    """A withdrawal has ended, and the node reads the channel."""
    world.balance = left
    world.payee.note(ChannelFacts(left, is_withdrawing=False), world.now)


# --- C3: a voucher that outlives its deposit ---


def test_a_voucher_is_worth_no_more_than_what_is_left_in_the_channel() -> None:
    world = World()
    stream = answering(world)
    assert stream.node is not None
    everything = world.balance
    stream.node.receive(wire.Pay(1, everything, vouch(world, everything)), world.now)
    assert world.payee.row.voucher == everything
    left = world.payee._account.needed + 10
    take_money_back(world, left)
    before = stream.node.credit
    greedy = wire.Pay(everything // 2, everything, world.payee.row.voucher_signature)
    actions = stream.node.receive(greedy, world.now)
    for _ in range(int(node.SHORT_DEADLINE_S) + 1):
        if not actions or not isinstance(actions[0], node.ReadChannel):
            break
        world.now = max(world.now, actions[0].at)
        world.payee.note(ChannelFacts(left, is_withdrawing=False), world.now)
        actions = stream.node.receive(node.ChannelRead(), world.now)
    assert isinstance(error_of(actions), PaymentRequired)
    assert "deposit" in str(error_of(actions))
    assert stream.node.credit == before
    world.payee.check()


def test_a_channel_that_fell_below_what_is_owed_is_dead_and_says_so() -> None:
    world = World()
    stream = answering(world)
    world.tell_node(stream, PeerGone("its stream died"))
    owed = world.payee.row.owed
    assert owed > 0
    take_money_back(world, owed - 1)
    assert world.payee.is_dead
    with pytest.raises(NoChannel, match=f"dead: it holds {owed - 1}, less than the {owed}"):
        world.payee.check_usable()
    again = PayeeChannel(world.payee.row, world.payee_notary)  # a restart changes nothing
    again.note(ChannelFacts(owed - 1, is_withdrawing=False), world.now)
    assert again.is_dead
    again.note(ChannelFacts(owed, is_withdrawing=False), world.now)
    again.check_usable()


# --- C8: receipts for what was not bought ---


def lost(world: World) -> Stream:
    """An answer of which the client saw some tokens, and that the node broke off."""
    stream = answering(world)
    world.tell_node(stream, PeerGone("broken off on purpose"))
    world.break_stream(stream, 3)
    world.drain()
    return stream


def show(world: World, **changes: Any) -> PayerChannel:
    """The client's channel, after its node showed its oldest draft, changed."""
    draft = world.payee.pending
    assert draft is not None
    body = msgspec.structs.replace(decode_body(draft.body), **changes)
    signature = world.payee_notary.sign_receipt(body)
    world.payer.cosign_pending(encode_body(body), signature)
    return world.payer


@pytest.mark.parametrize(
    "change",
    [
        {"owner": THIEF},
        {"payouts": b"\x07" * 32},
        {"adapter": b"\x07" * 32},
        {"base": b"\x07" * 32},
        {"prompt_commitment": b"\x07" * 32},
        {"started_at": 1},
        {"dtype": b"int8"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_receipt_for_a_lost_answer_is_signed_on_its_terms_alone(change: dict[str, Any]) -> None:
    world = World()
    lost(world)
    fault = NodeAtOdds if "prompt_commitment" in change else NodeCheated
    with pytest.raises(fault, match=next(iter(change))):
        show(world, **change)
    assert world.payer.row.cumulative == 0
    show(world)
    assert world.payer.row.cumulative > 0


def test_prices_of_a_lost_answer_do_not_rise() -> None:
    world = World()
    lost(world)
    draft = world.payee.pending
    assert draft is not None
    receipt = decode_body(draft.body)
    amount = receipt.amount + receipt.completion_tokens
    raised = {"completion_price": PRICE.completion + 1, "amount": amount, "cumulative": amount}
    with pytest.raises(NodeCheated, match="completion_price"):
        show(world, **raised)


def test_the_rest_of_a_voucher_pays_for_no_answer_that_never_was() -> None:
    world = World()
    stream = answering(world)
    world.finish_engine(stream, "stop")
    world.drain()
    assert stream.outcome is not None
    row = world.payer.row
    rest = row.voucher - row.cumulative
    assert rest > PRICE.cost(1, 1), "the voucher has a rest"
    last = decode_body(world.client_disk.receipts[-1].signed.body)
    amount = PRICE.cost(1, 1)
    never = msgspec.structs.replace(
        last,
        sequence=last.sequence + 1,
        previous=row.previous,
        prompt_tokens=1,
        completion_tokens=1,
        amount=amount,
        cumulative=row.cumulative + amount,
    )
    for seed in (last.seed, b"\x09" * 32):
        body = msgspec.structs.replace(never, seed=seed)
        signature = world.payee_notary.sign_receipt(body)
        with pytest.raises(NodeAtOdds, match="was not paid here, or has one"):
            world.payer.cosign_pending(encode_body(body), signature)
    assert world.payer.row == row


def test_a_lost_answer_is_remembered_over_a_restart_and_an_offer() -> None:
    world = World()
    lost(world)
    assert len(world.payer.row.promised) == 1
    world.crash_client()
    assert world.payer.release_lost() is not None
    world.client_disk.row = world.payer.row
    world.crash_client()
    with pytest.raises(NodeCheated, match="owner"):
        show(world, owner=THIEF)
    show(world)
    assert world.payer.row.promised == ()


# --- C14: nothing is fetched for nothing ---


def deeds_of(world: World, ask: dict[str, Any], pay: wire.Pay | None = None) -> list[str]:
    """What a node does for a stranger, up to its end or to its wish for a payment."""
    stream = world.open(3)
    assert stream.node is not None
    stream.to_node[0] = msgspec.structs.replace(stream.to_node[0], adapter=LAW, **ask)
    done: list[str] = []
    real = world.finish_deed

    def note(stream: Stream) -> None:
        done.append(type(stream.node_deeds[0]).__name__)
        real(stream)

    world.finish_deed = note  # type: ignore[method-assign]
    for _ in range(50):
        first = stream.to_node[0] if stream.to_node else None
        if isinstance(first, wire.Begin) and pay is not None:
            stream.to_node[0] = msgspec.structs.replace(first, payment=pay)
        moves = world.moves()
        if not moves or stream.credit is not None:
            break
        moves[0]()
    return done


def test_nothing_is_fetched_for_who_has_no_channel() -> None:
    assert deeds_of(World(), {"channel": None}) == []


@pytest.mark.parametrize(
    "pay",
    [
        wire.Pay(5_000, 5_000, bytes(65)),
        wire.Pay(1, 1, b""),
        wire.Pay(500_000, 500_000, b""),
    ],
    ids=["forged", "too little", "beyond the deposit"],
)
def test_nothing_is_fetched_for_who_does_not_pay(pay: wire.Pay) -> None:
    world = World()
    if not pay.signature:
        pay = wire.Pay(pay.limit, pay.amount, vouch(world, pay.amount))
    done = deeds_of(world, {}, pay)
    assert "HoldAdapter" not in done
    assert done[:2] == ["OpenChannel", "ReadChannel"]


def test_what_is_paid_is_fetched() -> None:
    assert deeds_of(World(), {})[-1] == "HoldAdapter"


# --- a channel pays so many accounts and no more ---


def crowd(number: int) -> AdapterTerms:
    """An adapter of 60 contributors whom no other adapter has."""
    people = tuple((bytes([number, each]).rjust(20, b"\x0f"), 1) for each in range(60))
    return AdapterTerms.of_one(bytes([number]) * 20, people, BASE)


def accounts(terms: AdapterTerms) -> frozenset[bytes]:
    return frozenset(address for address, _ in parties_of(POLICY, THIEF, terms))


def test_a_channel_that_would_pay_too_many_accounts_is_refused_before_the_answer() -> None:
    world = World()
    for number in range(4):
        world.payee.reserve(key := world.payee.new_key(), 0)
        world.payee.promise_accounts(key, accounts(crowd(number)))
    with pytest.raises(NoChannel, match="open another one"):
        world.payee.promise_accounts(world.payee.new_key(), accounts(crowd(9)))

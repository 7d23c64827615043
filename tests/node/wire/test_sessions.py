"""What each machine of the infer protocol does with one event, where the page is explicit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from node.errors import BadRequest, NoChannel, NodeAtOdds, NodeCheated, PaymentRequired
from node.wire import client_session as client
from node.wire import infer as wire
from node.wire import node_session as node
from node.wire.channels import ChannelFacts
from node.wire.metering import Price
from node.wire.session import Fail, Failed, PeerGone, Send, Tick

from . import two_sided
from .two_sided import Stream, World


def answering(world: World) -> Stream:
    """A stream whose first tokens have come."""
    stream = world.open(3)
    while not stream.seen:
        world.moves()[-1]()  # of the newest stream, the others stand still
    return stream


def messages(actions: Any) -> list[wire.Message]:
    return [action.message for action in actions if isinstance(action, Send)]


def error_of(actions: Any) -> Exception:
    [fail] = [action for action in actions if isinstance(action, Fail)]
    return fail.error


def test_biases_that_do_not_ascend_are_refused_at_once() -> None:
    for biases in ([(2, 1.0), (1, 1.0)], [(1, 1.0), (1, 2.0)]):
        stream = World().open(0)
        ask = stream.to_node.popleft()
        terms = msgspec.structs.replace(two_sided.TERMS, logit_bias=biases)
        assert stream.node is not None
        refused = stream.node.receive(msgspec.structs.replace(ask, terms=terms), 1000.0)
        assert isinstance(error_of(refused), BadRequest)


def test_an_offer_above_the_quote_is_refused_and_one_at_it_is_taken() -> None:
    for quoted, is_above in ((two_sided.PRICE, False), (Price(0, 0), True)):
        world = World()
        stream = world.open(0)
        while not stream.to_client:
            world.moves()[-1]()
        offer = stream.to_client.popleft()
        assert isinstance(offer, wire.Offer)
        session = stream.client
        assert session is not None
        session._quoted = quoted
        actions = session.receive(offer, world.now)
        if is_above:
            assert isinstance(error_of(actions), NodeAtOdds)
        else:
            assert any(isinstance(action, client.Agree) for action in actions)


def test_a_payment_that_is_not_higher_needs_its_signature_all_the_same() -> None:
    world = World()
    stream = answering(world)
    voucher = world.payee.row.voucher
    assert stream.node is not None
    for amount in (voucher - 1, 0):
        refused = stream.node.receive(wire.Pay(1, amount, b"\x01" * 65), world.now)
        assert isinstance(error_of(refused), PaymentRequired)
        world = World()
        stream = answering(world)
        assert stream.node is not None


def test_a_limit_that_is_not_higher_changes_nothing() -> None:
    world = World()
    stream = answering(world)
    assert stream.node is not None
    before = stream.node.credit
    amount = world.payee.row.voucher
    pay = wire.Pay(1, amount, world.payee.row.voucher_signature)
    assert stream.node.receive(pay, world.now) == []
    assert stream.node.credit == before
    world.check()


def test_a_receipt_of_another_answer_is_signed_in_the_middle_of_this_one() -> None:
    """Step 7 of the page: another request on the channel broke off meanwhile."""
    world = World()
    broken = answering(world)
    whole = answering(world)
    broken.client_ended = True
    broken.to_node.clear()
    world.tell_node(broken, PeerGone("its stream died"))
    assert world.payee.pending is not None
    world.drain()
    assert whole.outcome is not None
    assert len(world.node_disk.receipts) == 2
    world.recover()


def test_a_client_whose_disk_is_an_older_one_blames_nobody() -> None:
    world = World()
    answering(world)
    world.drain()
    older = world.client_disk.row
    lost = answering(world)
    world.break_stream(lost, 3)
    world.drain()
    assert world.payee.pending is not None
    world.client_disk.row = older
    world.boot_client()
    pending = world.open(1)
    world.drain()
    assert isinstance(pending.client_error, NodeAtOdds), "a draft of what it forgot"


def test_where_everything_is_free_there_is_no_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_sided, "PRICE", two_sided.Price(0, 0))
    world = World()
    stream = world.open(1)
    while stream.outcome is None:
        world.moves()[0]()
    assert stream.outcome.receipt is None
    assert stream.outcome.token_ids == stream.made
    assert world.node_disk.receipts == []


def test_a_withdrawal_ends_the_answer_and_bills_what_was_sent() -> None:
    world = World()
    stream = answering(world)
    assert stream.node is not None
    world.payee.note(ChannelFacts(world.balance, is_withdrawing=True), world.now)
    pay = wire.Pay(10, 10, bytes(65))
    actions = stream.node.receive(pay, world.now)
    assert isinstance(error_of(actions), NoChannel)
    assert world.payee.pending is not None
    assert any(isinstance(action, node.CancelEngine) for action in actions)


def test_a_stop_before_the_first_token_is_kept_in_mind() -> None:
    world = World()
    stream = world.open(3)
    assert stream.node is not None
    while not any(isinstance(message, wire.Begin) for message in stream.to_node):
        world.moves()[0]()
    world.payee.read_at = float("-inf")  # so that the first voucher waits for the chain
    world.tell_node(stream, stream.to_node.popleft())
    world.tell_node(stream, wire.Stop())
    assert not stream.is_cancelled
    world.finish_deed(stream)  # the chain is read
    assert not stream.is_cancelled
    world.finish_deed(stream)  # the adapter is held
    assert stream.is_cancelled


def test_a_deposit_that_is_not_seen_in_time_is_payment_required() -> None:
    world = World()
    stream = answering(world)
    assert stream.node is not None
    amount = world.balance + 1
    signature = world.payer_notary.sign_voucher(world.payee.channel_id, amount)
    actions = stream.node.receive(wire.Pay(amount, amount, signature), world.now)
    num_readings = 0
    while not any(isinstance(action, Fail) for action in actions):
        [reading] = actions
        assert isinstance(reading, node.ReadChannel)
        assert reading.at >= world.payee.read_at + 1.0, "the chain is asked too often"
        num_readings += 1
        world.now = max(world.now, reading.at)
        world.payee.note(ChannelFacts(world.balance, is_withdrawing=False), world.now)
        actions = stream.node.receive(node.ChannelRead(), world.now)
    assert isinstance(error_of(actions), PaymentRequired)
    assert node.SHORT_DEADLINE_S - 1 <= num_readings <= node.SHORT_DEADLINE_S + 1


def test_a_voucher_waits_for_what_a_lost_request_reserved() -> None:
    world = World()
    stream = answering(world)
    assert stream.node is not None
    payee = world.payee
    lost = payee.new_key()
    payee.raise_voucher(vouched(world, 100, payee._account.needed + 100))
    payee.reserve(lost, 100)
    limit = payee._account.reserved_for(stream.node._key) + 50
    amount = payee._account.needed_with(stream.node._key, limit) - 1
    [reading] = stream.node.receive(vouched(world, limit, amount), world.now)
    assert isinstance(reading, node.ReadChannel)
    world.now += node.UNPAID_DEADLINE_S + 1
    assert stream.node.receive(Tick(), world.now) == [], "its voucher came"
    payee.release(lost)
    payee.note(ChannelFacts(world.balance, is_withdrawing=False), world.now)
    before = stream.node.credit
    actions = stream.node.receive(node.ChannelRead(), world.now)
    assert [action for action in actions if isinstance(action, node.GrantCredit)]
    assert stream.node.credit > before


def vouched(world: World, limit: int, amount: int) -> wire.Pay:
    signature = world.payer_notary.sign_voucher(world.payee.channel_id, amount)
    return wire.Pay(limit, amount, signature)


def test_a_client_that_wants_no_more_pays_no_more() -> None:
    world = World()
    stream = answering(world)
    assert stream.client is not None
    assert messages(stream.client.receive(client.StopWanted(), world.now)) == [wire.Stop()]
    assert stream.client.receive(client.StopWanted(), world.now) == []
    more = wire.Output(list(range(20)), [])
    assert messages(stream.client.receive(more, world.now)) == []


def test_tokens_that_were_not_paid_are_not_taken() -> None:
    world = World()
    stream = answering(world)
    assert stream.client is not None
    too_many = wire.Output([1] * (stream.client.num_paid_ahead + 1), [])
    assert isinstance(error_of(stream.client.receive(too_many, world.now)), NodeCheated)


ENDS = (1_007, 1_009)


@pytest.mark.parametrize(
    "parts",
    [[[1_007, 1]], [[1, 1_009], [1]], [[1_007], [], [1_007]], [[1, 1_007, 1_009]]],
    ids=["in one", "in the next", "behind a beat", "another end"],
)
def test_tokens_behind_one_that_ends_the_answer_are_not_taken(parts: list[list[int]]) -> None:
    """Though they are within what was paid ahead."""
    world = World(stop_ids=ENDS)
    stream = answering(world)
    assert stream.client is not None
    *good, bad = [wire.Output(ids, []) for ids in parts]
    for output in good:
        assert not any(isinstance(one, Fail) for one in stream.client.receive(output, world.now))
    error = error_of(stream.client.receive(bad, world.now))
    assert isinstance(error, NodeCheated)
    assert "behind one that ends" in str(error)
    assert not world.client_disk.receipts


def test_an_answer_may_end_with_any_stop_id_and_be_told_of_a_beat_later() -> None:
    world = World(stop_ids=ENDS)
    stream = answering(world)
    assert stream.client is not None
    for ids in ([1, 2], [3, 1_009], []):
        output = wire.Output(ids, [])
        assert not any(isinstance(one, Fail) for one in stream.client.receive(output, world.now))


def test_a_deposit_that_fails_ends_the_answer_with_its_reason() -> None:
    world = World()
    stream = answering(world)
    assert stream.client is not None
    refusal = PaymentRequired("max_channel_deposit allows no more")
    assert error_of(stream.client.receive(Failed(refusal), world.now)) is refusal


def test_a_voucher_that_waits_for_the_chain_as_the_answer_ends_reserves_nothing() -> None:
    world = World()
    stream = answering(world)
    assert stream.node is not None
    world.payee.read_at = float("-inf")
    pay = wire.Pay(9_999, world.payee.row.voucher, world.payee.row.voucher_signature)
    world.tell_node(stream, pay)
    world.finish_engine(stream, "stop")
    world.give_turn()
    assert world.payee.pending is not None
    world.finish_deed(stream)
    world.check()
    world.drain()
    assert stream.outcome is not None

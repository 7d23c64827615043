"""Whose text an answer drew on: both sides compute it, the client before it signs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from node.errors import NoChannel, NodeCheated, NodeError, NodeVanished
from node.wire import infer as wire
from node.wire import node_session as node
from node.wire.session import Draw, Drew, Failed, PeerGone, Send
from proofs.attribution.credit import Drawn
from proofs.payouts import ChannelPayouts
from proofs.receipt import decode_body, derive_shares

from .test_sessions import answering
from .two_sided import DRAWN, GRACE_S, TERMS_OF, RealNotary, Stream, World

HONEST: Drawn = (((0, 1_234), (1, 8_766)),)
ONE_UNIT_MORE: Drawn = (((0, 1_235), (1, 8_765)),)
STANDING: Drawn = ()


def world_of(node_says: Drawn, client_says: Drawn = HONEST) -> World:
    """Two sides that find so of any answer."""
    world = World()
    world.node_draws = lambda draw: Drew(node_says)
    world.client_draws = lambda draw: Drew(client_says)
    return world


def answered(world: World) -> Stream:
    """A whole answer, and what comes of it."""
    stream = world.open(1)
    world.drain()
    return stream


def test_what_both_sides_computed_stands_in_the_receipt_and_moves_the_shares() -> None:
    world = world_of(HONEST)
    stream = answered(world)
    assert stream.outcome is not None
    [kept] = world.client_disk.receipts
    assert kept.receipt.drawn == HONEST
    assert kept.is_cosigned
    assert world.node_disk.receipts == world.client_disk.receipts
    shares = derive_shares(kept.receipt, TERMS_OF[DRAWN])
    # λ = 4/8 of 1,500: by 1,234 and 8,766 of 10,000; the rest by weights 2 and 1.
    assert {one.address[0]: one.weight for one in shares if one.role == 2} == {0xD: 593, 0xE: 907}
    assert kept.receipt.payouts == ChannelPayouts(world.payer.row.payouts).commitment


def test_an_answer_that_drew_on_nobody_is_paid_by_standing_weights() -> None:
    world = world_of(STANDING, STANDING)
    assert answered(world).outcome is not None
    assert world.client_disk.receipts[0].receipt.drawn == ()


@pytest.mark.parametrize("told", [ONE_UNIT_MORE, STANDING, (((1, 10_000),),)])
def test_a_node_that_pays_friends_by_one_unit_is_refused_and_its_word_is_kept(told: Drawn) -> None:
    world = world_of(told)
    stream = answered(world)
    assert isinstance(stream.client_error, NodeCheated)
    assert "drew on" in str(stream.client_error)
    assert not world.client_disk.receipts
    [accused] = world.accused
    assert decode_body(accused.body).drawn == told
    assert accused.answer_ids == tuple(stream.made)
    assert accused.deal.ask.prompt_ids == list(stream.prompt)


def test_a_node_whose_word_was_refused_takes_its_fee_alone_after_the_grace() -> None:
    world = world_of(ONE_UNIT_MORE)
    answered(world)
    world.pass_time(GRACE_S + 1)
    world.drain()
    [alone] = world.node_disk.receipts
    assert not alone.is_cosigned
    assert alone.receipt.drawn == ONE_UNIT_MORE


@pytest.mark.parametrize("told", [HONEST, ONE_UNIT_MORE])
def test_what_an_answer_drew_on_is_not_signed_on_a_later_visit_nor_held_against_the_node(
    told: Drawn,
) -> None:
    """Else a node would end the stream before its receipt, and show any; an honest one whose stream
    broke there is no cheat.
    """
    world = world_of(told)
    stream = answering(world)
    while not isinstance(stream.to_client[-1] if stream.to_client else None, wire.Done):
        world.moves()[0]()
    stream.to_client.clear()
    world.break_stream(stream, 3)
    world.drain()
    assert isinstance(stream.client_error, NodeVanished)
    again = world.open(1)
    world.drain()
    assert isinstance(again.client_error, NoChannel)
    assert "recomputed" in str(again.client_error)
    assert not world.accused
    assert not world.client_disk.receipts


@pytest.mark.parametrize("wanted", [True, False])
def test_a_node_or_a_client_without_the_index_means_standing_weights(wanted: bool) -> None:
    world = World()
    if wanted:
        world.client_draws = lambda draw: Drew(HONEST)
    else:
        world.node_draws = lambda draw: Drew(HONEST)
    stream = world.open(5)
    world.drain()
    assert stream.outcome is not None
    assert world.client_disk.receipts[0].receipt.drawn == ()


def test_a_node_that_tells_what_nobody_asked_for_is_left_before_anything_is_paid() -> None:
    world = World()
    stream = world.open(5)
    while not stream.to_client:
        world.moves()[0]()
    offer = stream.to_client.popleft()
    assert isinstance(offer, wire.Offer)
    stream.to_client.append(msgspec.structs.replace(offer, attributed=True))
    world.drain()
    assert isinstance(stream.client_error, NodeCheated)
    assert stream.paid_limit == 0


def test_a_broken_answer_draws_on_nobody_and_is_signed_on_the_next_visit() -> None:
    world = world_of(HONEST)
    stream = answering(world)
    assert stream.node is not None
    world.break_stream(stream, 3)
    world.drain()
    again = answered(world)
    assert again.outcome is not None
    broken, whole = world.client_disk.receipts
    assert (broken.receipt.drawn, whole.receipt.drawn) == ((), HONEST)
    assert broken.receipt.completion_tokens == len(stream.sent)


def test_a_node_that_cannot_compute_it_ends_the_answer_by_standing_weights() -> None:
    world = world_of(HONEST)
    world.node_draws = lambda draw: Failed(NodeError("the index is gone"))
    stream = answered(world)
    assert "the index is gone" in str(stream.client_error)
    again = world_of_after(world)
    assert again.outcome is not None
    assert [one.receipt.drawn for one in world.client_disk.receipts] == [(), HONEST]


def world_of_after(world: World) -> Stream:
    world.node_draws = lambda draw: Drew(HONEST)
    return answered(world)


def test_a_client_that_cannot_compute_it_signs_nothing() -> None:
    world = world_of(HONEST)
    world.client_draws = lambda draw: Failed(NodeError("the index is gone"))
    stream = answered(world)
    assert "the index is gone" in str(stream.client_error)
    assert not world.client_disk.receipts
    assert not world.accused


def test_the_price_of_an_answer_does_not_depend_on_what_it_drew_on() -> None:
    amounts = set()
    for drawn in (HONEST, STANDING, (((0, 10_000),),)):
        world = world_of(drawn, drawn)
        answered(world)
        amounts.add(world.client_disk.receipts[0].receipt.amount)
    assert len(amounts) == 1


def test_real_signatures_hold_over_it() -> None:
    world = World(RealNotary)
    world.node_draws = world.client_draws = lambda draw: Drew(HONEST)
    assert answered(world).outcome is not None
    assert world.node_disk.receipts[0].receipt.drawn == HONEST


def test_the_node_computes_it_before_it_takes_its_turn_to_show_receipts() -> None:
    """So no other answer of the channel waits for it."""
    world = world_of(HONEST)
    stream = answering(world)
    assert stream.node is not None
    stream.node.receive(wire.Stop(), world.now)
    actions: Any = []
    world.tell_node = lambda s, event: actions.extend(s.node.receive(event, world.now))  # type: ignore[assignment,union-attr]
    world.finish_engine(stream, "cancelled")
    assert [type(one) for one in actions] == [Draw]
    after = stream.node.receive(Drew(HONEST), world.now)
    assert [type(one) for one in after] == [node.TakeTurn]
    gone = stream.node.receive(PeerGone("left"), world.now)
    assert not [one for one in gone if isinstance(one, Send)]
    draft = world.payee.pending
    assert draft is not None
    assert decode_body(draft.body).drawn == ()

"""A payer that signs no receipts: each draft ends by the node's signature alone, in one chain."""

from __future__ import annotations

from node.wire.channels import ChannelFacts, ChannelRow, PayeeChannel
from node.wire.infer import Pay
from proofs.receipt import FIRST_PREVIOUS

from .test_resumed import ASK, CHANNEL, CLIENT, CONFIG, NODE, STARTED_AT, close

SALT = b"salt of 16 bytes"


def opened(row: ChannelRow | None = None) -> PayeeChannel:
    payee = PayeeChannel(row or ChannelRow(CHANNEL, NODE.address, CONFIG), NODE)
    payee.note(ChannelFacts(100_000, is_withdrawing=False), now=0.0)
    return payee


def test_drafts_become_receipts_at_once_and_the_next_one_follows() -> None:
    payee = opened()
    deal = close(ASK, SALT)
    previous = FIRST_PREVIOUS
    for number in (1, 2, 3):
        limit = deal.cost(8)
        amount = payee.row.owed + limit
        payee.raise_voucher(Pay(limit, amount, CLIENT.sign_voucher(CHANNEL, amount)))
        key = payee.new_key()
        payee.reserve(key, limit)
        assert payee.is_in_use
        payee.draft(key, deal, [7] * number, STARTED_AT)
        (persist,) = payee.settle_alone()
        payee.check()
        assert not payee.is_in_use
        assert payee.pending is None
        assert persist.receipt is not None
        receipt = persist.receipt.receipt
        assert not persist.receipt.is_cosigned
        assert (receipt.sequence, receipt.previous) == (number, previous)
        assert (persist.row.cumulative, persist.row.sequence) == (receipt.cumulative, number)
        previous = persist.receipt.digest
        assert previous == persist.row.previous
    assert payee.settle_alone() == []


def test_what_a_restart_or_the_grace_left_ends_too_and_no_receipt_is_made_twice() -> None:
    payee = opened()
    deal = close(ASK, SALT)
    payee.raise_voucher(Pay(1, 10_000, CLIENT.sign_voucher(CHANNEL, 10_000)))
    for count in (1, 2):
        key = payee.new_key()
        payee.reserve(key, deal.cost(8))
        payee.draft(key, deal, [7] * count, STARTED_AT + count * 100)
    assert len(payee.tick(STARTED_AT + 161)) == 1, "the first one's grace is over"
    again = opened(payee.row)
    late, fresh = again.settle_alone()
    again.check()
    assert late.receipt is None, "it was made when the grace was over"
    assert fresh.receipt is not None
    assert fresh.row.drafts == ()
    assert fresh.row.sequence == 2

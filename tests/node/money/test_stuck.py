"""What unpaid money is said to wait for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import pytest

from node.api.money import Obstacle
from node.money.stuck import ChainFacts, list_stuck
from node.wire.channels import ChannelRow, Draft
from proofs.attribution.shares import POLICY
from proofs.chain.structs import ChannelExit, ChannelState, Office, PendingExit
from proofs.channel import ChannelTip
from proofs.ledger import OutboxEntry, OutboxState
from proofs.promise import Promise
from proofs.receipt import BARE_BASE, NO_SIGNATURE, SignedReceipt, digest_of, encode_body
from proofs.voucher import channel_id
from tests.proofs import scene

NOW = 1_000
ACCOUNT = bytes(range(20))
CONFIG = scene.config()
CHANNEL = channel_id(CONFIG, scene.NETWORK)
RECEIPT = scene.receipt(ChannelTip(CONFIG), adapter=BARE_BASE)
BODY = encode_body(RECEIPT)
SIGNED = SignedReceipt(BODY, bytes(65), NO_SIGNATURE)
ENTRY = OutboxEntry(
    digest_of(BODY), SIGNED, b"envelope", OutboxState.QUEUED, promise=None, epoch=None
)
PROMISE = Promise(CHANNEL, 1, RECEIPT.cumulative, digest_of(BODY), 1_200, bytes(65))
FUNDED = ChannelState(10**6, RECEIPT.cumulative, 0, 0, refund_nonce=0)
HELD = Office(bytes([1] * 20), bond=1, term=1, silent_from=5_000)
FACTS = ChainFacts(now=NOW, office=HELD, channels={CHANNEL: FUNDED})


@dataclass(frozen=True)
class Twin:
    """What the daemon's other parts know, by rote."""

    claimed: bool = True
    held: str | None = None
    refused: bool = False
    words: str | None = None

    def is_claimed(self, channel_id: bytes, cumulative: int) -> bool:
        return self.claimed

    def why_held(self, channel_id: bytes) -> str | None:
        return self.held

    def is_refused(self, digest: bytes) -> bool:
        return self.refused

    def last_words(self, digest: bytes) -> str | None:
        return self.words

    def final_at(self, epoch: int) -> int | None:
        return 1_600 + epoch


def poor(balance: int) -> ChainFacts:
    return replace(FACTS, channels={CHANNEL: replace(FUNDED, balance=balance, total_claimed=0)})


VACANT = replace(FACTS, office=replace(HELD, aggregator=None))


@pytest.mark.parametrize(
    ("entry", "facts", "known", "waits_for", "says", "until"),
    [
        (ENTRY, poor(10**6), Twin(claimed=False, held="gas"), "claim", "gas", None),
        (ENTRY, poor(10**6), Twin(claimed=False), "claim", "next round", None),
        (ENTRY, FACTS, Twin(claimed=False), "claim", "not deep enough", None),
        (ENTRY, FACTS, Twin(), "aggregator", "not asked", None),
        (ENTRY, FACTS, Twin(words="out of order"), "aggregator", "out of order", None),
        (ENTRY, FACTS, Twin(refused=True, words="left"), "refused", "never: left", None),
        (replace(ENTRY, promise=PROMISE), FACTS, Twin(), "epoch", "promised", 1_200),
        (
            replace(ENTRY, promise=PROMISE),
            replace(FACTS, now=1_201),
            Twin(),
            "epoch",
            "overdue",
            1_200,
        ),
        (
            replace(ENTRY, promise=PROMISE, state=OutboxState.INCLUDED, epoch=7),
            FACTS,
            Twin(),
            "window",
            "epoch 7",
            1_607,
        ),
        (ENTRY, VACANT, Twin(), "exit", "no aggregator", None),
        (
            ENTRY,
            replace(VACANT, pending_exits={CHANNEL: PendingExit(b"", 1, 1, 1_500, False)}),
            Twin(),
            "exit",
            "by itself",
            1_500,
        ),
    ],
)
def test_a_receipt_waits_for_the_first_thing_that_is_missing(
    entry: OutboxEntry,
    facts: ChainFacts,
    known: Twin,
    waits_for: Obstacle,
    says: str,
    until: int | None,
) -> None:
    (one,) = list_stuck([], [entry], facts, known, grace_s=60)
    assert (one.waits_for, one.until) == (waits_for, until)
    assert says in one.detail
    assert (one.unit, one.amount) == (digest_of(BODY).hex(), RECEIPT.amount)


def test_what_an_exit_paid_waits_no_more_and_what_came_after_it_does() -> None:
    left = replace(FACTS, exits={CHANNEL: ChannelExit(bytes(32), sequence=1, left_at=NOW)})
    assert list_stuck([], [ENTRY], left, Twin(), grace_s=60) == []
    before = replace(FACTS, exits={CHANNEL: ChannelExit(bytes(32), sequence=0, left_at=NOW)})
    (one,) = list_stuck([], [ENTRY], before, Twin(), grace_s=60)
    assert one.waits_for == "exit"


def test_a_draft_waits_for_its_clients_signature_until_the_grace_is_over() -> None:
    draft = Draft(BODY, bytes(65), terms=None, policy=POLICY, made_at=900)
    row = ChannelRow(CHANNEL, CONFIG.receiver_authorizer, CONFIG, drafts=(draft,))
    (one,) = list_stuck([row], [], FACTS, Twin(), grace_s=60)
    assert (one.waits_for, one.until, one.amount) == ("signature", 960, RECEIPT.amount)
    sent = replace_row(row, draft)
    assert list_stuck([sent], [], FACTS, Twin(), grace_s=60) == []


def replace_row(row: ChannelRow, draft: Draft) -> ChannelRow:
    """The row after the draft went out without its client's signature."""
    sent = msgspec.structs.replace(draft, is_sent=True)
    return ChannelRow(row.channel_id, row.operator, row.config, drafts=(sent,))


def test_a_channel_that_holds_less_than_it_owes_is_dead_for_the_rest() -> None:
    row = ChannelRow(CHANNEL, CONFIG.receiver_authorizer, CONFIG, cumulative=1_000)
    (one,) = list_stuck([row], [], poor(400), Twin(), grace_s=60)
    assert (one.waits_for, one.amount, one.unit) == ("dead", 600, CHANNEL.hex())


@pytest.mark.parametrize(("claimable", "due"), [(900, 600), (300, None), (0, None)])
def test_an_account_waits_for_the_claim_of_what_is_final_and_not_paid(
    claimable: int, due: int | None
) -> None:
    facts = replace(
        FACTS, awarded={ACCOUNT: 1_000}, claimable={ACCOUNT: claimable}, paid={ACCOUNT: 300}
    )
    listed = list_stuck([], [], facts, Twin(), grace_s=60)
    assert [one.amount for one in listed] == ([] if due is None else [due])
    assert all(one.waits_for == "payout" for one in listed)

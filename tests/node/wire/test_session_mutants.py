"""The two-sided test can fail: each of these mistakes is caught, and by which check."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from node.errors import NodeAtOdds
from node.wire import channels, client_session, metering, node_session
from node.wire.channels import PayeeChannel, PayerChannel, Persist, Promised
from node.wire.client_session import ClientSession
from node.wire.infer import PAY_TOKENS
from node.wire.metering import Account, Deal
from node.wire.node_session import NodeSession, TakeTurn, TurnTaken
from node.wire.session import Send
from proofs.attribution.shares import POLICY, Share
from proofs.errors import ReceiptError
from proofs.receipt import Receipt, decode_body

from .two_sided import GRACE_S, TERMS_OF, World

Patch = Callable[[pytest.MonkeyPatch], None]
MAX_SCHEDULES = 3_000
SEED = 6
SOON = {
    "let_a_limit_sink": 17,
    "sign_any_pending": 31,
    "sign_a_pending_without_memory": 79,
    "trust_a_pending_on_its_terms": 31,
}
"""Seeds with which what is caught in one schedule of hundreds is caught in one of the first."""


def credit_a_step_early(patch: pytest.MonkeyPatch) -> None:
    real = NodeSession.credit.fget
    assert real is not None
    patch.setattr(NodeSession, "credit", property(lambda self: real(self) + PAY_TOKENS // 2))


def count_a_voucher_twice(patch: pytest.MonkeyPatch) -> None:
    def raise_voucher(self: Account, amount: int) -> None:
        self.voucher += amount

    patch.setattr(Account, "raise_voucher", raise_voucher)


def take_any_signature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PayeeChannel, "check_voucher", lambda self, pay: None)


def let_a_limit_sink(patch: pytest.MonkeyPatch) -> None:
    def reserve(self: Account, key: int, limit: int) -> None:
        self._reserved.pop(key, None)
        real(self, key, limit)

    real = Account.reserve
    patch.setattr(Account, "reserve", reserve)


def reserve_beyond_the_voucher(patch: pytest.MonkeyPatch) -> None:
    def reserve(self: Account, key: int, limit: int) -> None:
        self._reserved[key] = max(limit, self.reserved_for(key))

    patch.setattr(Account, "reserve", reserve)


def without_persist(real: Callable[..., Any]) -> Callable[..., Any]:
    def receive(*args: Any) -> list[Any]:
        return [action for action in real(*args) if not isinstance(action, Persist)]

    return receive


def forget_to_write_as_node(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NodeSession, "receive", without_persist(NodeSession.receive))


def forget_to_write_as_client(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClientSession, "receive", without_persist(ClientSession.receive))


def write_no_drafts(patch: pytest.MonkeyPatch) -> None:
    def draft(self: PayeeChannel, *args: Any) -> Persist:
        before = self.row
        real(self, *args)
        self.row = before
        return Persist(before)

    real = PayeeChannel.draft
    patch.setattr(PayeeChannel, "draft", draft)


def bill_nothing_to_who_vanished(patch: pytest.MonkeyPatch) -> None:
    def release(self: NodeSession, channel: PayeeChannel, last: object) -> None:
        channel.release(self._key)

    patch.setattr(NodeSession, "_draft_rest", release)


def bill_one_token_more(patch: pytest.MonkeyPatch) -> None:
    def draft(self: PayeeChannel, key: int, deal: Deal, ids: Any, *rest: Any) -> Persist:
        return real(self, key, deal, [*ids, 7], *rest)

    real = PayeeChannel.draft
    patch.setattr(PayeeChannel, "draft", draft)


def keep_a_settled_draft(patch: pytest.MonkeyPatch) -> None:
    def settle(self: PayeeChannel, signature: bytes) -> Persist:
        before = list(self._drafts)
        persist = real(self, signature)
        self._drafts = before
        return persist

    real = PayeeChannel.settle
    patch.setattr(PayeeChannel, "settle", settle)


def show_drafts_out_of_turn(patch: pytest.MonkeyPatch) -> None:
    def receive(self: NodeSession, event: Any, now: float) -> list[Any]:
        actions = real(self, event, now)
        if any(isinstance(action, TakeTurn) for action in actions):
            actions = [action for action in actions if not isinstance(action, TakeTurn)]
            actions += receive(self, TurnTaken(), now)
        return [each for each in actions if not isinstance(each, node_session.GiveTurn)]

    real = NodeSession.receive
    patch.setattr(NodeSession, "receive", receive)


def pay_twice_as_far_ahead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(client_session, "PAY_TOKENS", 2 * PAY_TOKENS)


def sign_whatever_is_shown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(channels, "find_difference", lambda own, given: None)


def sign_any_pending(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PayerChannel, "_check_pending", lambda self, key, receipt: None)


def sign_a_pending_without_memory(patch: pytest.MonkeyPatch) -> None:
    """Whatever is within the voucher, as the first version of this machine did."""

    def find(self: PayerChannel, receipt: Receipt) -> int:
        try:
            return real(self, receipt)
        except NodeAtOdds:
            key = next(self._keys)
            rest = self.row.voucher - self.row.cumulative
            self._promised[key] = Promised(receipt, TERMS_OF[receipt.adapter], POLICY, rest)
            return key

    real = PayerChannel._find
    patch.setattr(PayerChannel, "_find", find)
    sign_any_pending(patch)


def trust_a_pending_on_its_terms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Promised, "receipt", lambda self, position, given: given)


def forget_what_was_lost(patch: pytest.MonkeyPatch) -> None:
    def leave(self: PayerChannel, key: int) -> None:
        self.release(key)

    patch.setattr(PayerChannel, "leave", leave)


def forget_what_was_signed(patch: pytest.MonkeyPatch) -> None:
    def cosign_pending(self: PayerChannel, body: bytes, node_signature: bytes) -> Any:
        receipt = self._read_draft(body, node_signature)
        self._check_pending(self._find(receipt), receipt)
        return real(self, body, node_signature)

    real = PayerChannel.cosign_pending
    patch.setattr(PayerChannel, "cosign_pending", cosign_pending)


def send_the_signature_first(patch: pytest.MonkeyPatch) -> None:
    """Said before it is written down: only a death between the two can tell."""

    def do(self: World, stream: Any, actions: Any) -> None:
        real(self, stream, [action for action in actions if isinstance(action, Send)])
        real(self, stream, [action for action in actions if not isinstance(action, Send)])

    real = World.do_client
    patch.setattr(World, "do_client", do)


def give_no_grace(patch: pytest.MonkeyPatch) -> None:
    def tick(self: PayeeChannel, now: float) -> list[Persist]:
        return real(self, now + 2 * GRACE_S)

    real = PayeeChannel.tick
    patch.setattr(PayeeChannel, "tick", tick)
    patch.setattr(PayeeChannel, "due_at", property(lambda self: float(not self._drafts) * 1e9))


def wait_for_a_signature_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PayeeChannel, "tick", lambda self, now: [])
    patch.setattr(PayeeChannel, "due_at", property(lambda self: float("inf")))


def take_the_latest_draft_alone(patch: pytest.MonkeyPatch) -> None:
    def tick(self: PayeeChannel, now: float) -> list[Persist]:
        return real(self, now)[-1:]

    real = PayeeChannel.tick
    patch.setattr(PayeeChannel, "tick", tick)


def forget_a_draft_that_was_sent(patch: pytest.MonkeyPatch) -> None:
    def tick(self: PayeeChannel, now: float) -> list[Persist]:
        done = real(self, now)
        self._drafts = [one for one in self._drafts if not one.draft.is_sent]
        return done

    real = PayeeChannel.tick
    patch.setattr(PayeeChannel, "tick", tick)


def pay_the_node_alone(patch: pytest.MonkeyPatch) -> None:
    def receipt(self: Deal, network: Any, position: Any, *rest: Any) -> Receipt:
        found = real(self, network, position, *rest)
        alone = position.payouts.award((Share(self.offer.owner, 0, 10_000),), found.amount)
        return msgspec.structs.replace(found, payouts=alone.commitment)

    real = Deal.receipt
    patch.setattr(Deal, "receipt", receipt)


def forget_earlier_payouts(patch: pytest.MonkeyPatch) -> None:
    real = channels._standing
    patch.setattr(channels, "_standing", lambda position: real(position) | {"payouts": ()})


def ignore_the_least_fee(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(metering, "fee", lambda policy, price, shares: price)
    patch.setattr(channels, "fee", lambda policy, price, shares: price)


def sign_whatever_split_is_shown(patch: pytest.MonkeyPatch) -> None:
    def settle(self: ClientSession, done: Any, drawn: Any, now: float) -> None:
        real(self, done, decode_body(done.body).drawn, now)

    real = ClientSession._settle
    patch.setattr(ClientSession, "_settle", settle)


def pay_standing_weights_for_a_whole_answer(patch: pytest.MonkeyPatch) -> None:
    real = metering.shares_for
    patch.setattr(metering, "shares_for", lambda *told: real(*told[:3]))


ATTRIBUTED: list[tuple[Patch, str]] = [
    (sign_whatever_split_is_shown, "another split was billed"),
    (pay_standing_weights_for_a_whole_answer, "payouts are wrong|another part"),
]
MUTANTS: list[tuple[Patch, str]] = [
    (credit_a_step_early, "unpaid|owed"),
    (count_a_voucher_twice, "Account|voucher"),
    (take_any_signature, "a voucher was invented"),
    (let_a_limit_sink, "cost more than was reserved|is owed"),
    (reserve_beyond_the_voucher, "Account|is owed"),
    (forget_to_write_as_node, "the node did not write down"),
    (forget_to_write_as_client, "the client did not write down"),
    (write_no_drafts, "a draft is not kept"),
    (bill_nothing_to_who_vanished, "what was sent is not billed"),
    (bill_one_token_more, "cost more than was reserved|billed"),
    (keep_a_settled_draft, "a draft"),
    (show_drafts_out_of_turn, "$"),  # two sessions draft at once: the machine's own assertion
    (pay_twice_as_far_ahead, "tokens ahead"),
    (sign_whatever_is_shown, "a receipt is not kept|not the client's"),
    (sign_any_pending, "Account|not the client's|a place in the chain|a receipt is not kept"),
    (
        sign_a_pending_without_memory,
        "the answer was not asked for|a paid request is not kept|Account",
    ),
    (
        trust_a_pending_on_its_terms,
        "not the client's|a place in the chain|a unit was paid twice|a receipt is not kept",
    ),
    (forget_what_was_lost, "no answer any more|a paid request is not kept|did not write down"),
    (give_no_grace, "the client had"),
    (wait_for_a_signature_for_ever, "a draft was left"),
    (
        take_the_latest_draft_alone,
        "did not write down|place in the chain|is not paid|receipts differ",
    ),
    (forget_a_draft_that_was_sent, "a draft|the chain's end is not known"),
    (pay_the_node_alone, "another part|payouts are wrong"),
    (forget_earlier_payouts, "another part|payouts are wrong|end is not known"),
    (ignore_the_least_fee, "unpaid|Account|is owed|another part|no answer any more"),
    (forget_what_was_signed, "no answer any more"),
    (send_the_signature_first, "no answer any more|receipts differ|who signed that"),
]


@pytest.mark.parametrize(
    ("mutate", "caught_by"), MUTANTS, ids=[each.__name__ for each, _ in MUTANTS]
)
def test_a_mistake_in_the_machines_is_caught(
    mutate: Patch, caught_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    chance = random.Random(SOON.get(mutate.__name__, SEED))
    with pytest.raises((AssertionError, ReceiptError), match=caught_by):
        for _ in range(MAX_SCHEDULES):
            World().run(chance.randbytes(chance.randrange(60, 400)))


@pytest.mark.parametrize(
    ("mutate", "caught_by"), ATTRIBUTED, ids=[each.__name__ for each, _ in ATTRIBUTED]
)
def test_a_mistake_in_whom_an_answer_pays_is_caught(
    mutate: Patch, caught_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    chance = random.Random(SEED)
    with pytest.raises(AssertionError, match=caught_by):
        for _ in range(MAX_SCHEDULES):
            World(is_attributed=True).run(chance.randbytes(chance.randrange(60, 400)))

"""Both sides of a channel under any order of messages: an honest client is never refused, and
nobody is ever owed what was not vouched for.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from node.errors import PaymentRequired
from node.wire import infer as wire
from node.wire.metering import Account, Price

DEPOSIT = 100_000


class Channel(RuleBasedStateMachine):
    """Requests run at the same time on one channel; each stream keeps its order, streams overtake
    one another.
    """

    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.client = Account(0, 0, DEPOSIT)
        self.node = Account(0, 0, DEPOSIT)
        self.streams: dict[int, list[tuple[int, int]]] = {}  # vouchers under way: (limit, amount)
        self.limits: dict[int, int] = {}
        self.signing: tuple[int, int] | None = (
            None  # the one receipt that the client signed and the node has not got yet
        )
        self.keys = 0

    @rule(target=running, limit=st.integers(1, 500))
    def begin(self, limit: int) -> int:
        self.keys += 1
        self.streams[self.keys] = [(limit, self.client.want(self.keys, limit))]
        return self.keys

    @rule(key=running, more=st.integers(1, 500))
    def pay_more(self, key: int, more: int) -> None:
        limit = self.client._reserved[key] + more
        self.streams[key].append((limit, self.client.want(key, limit)))

    @rule(key=running)
    def voucher_arrives(self, key: int) -> None:
        if self.streams[key]:
            limit, amount = self.streams[key].pop(0)
            self.node.raise_voucher(amount)
            self.node.reserve(key, limit)
            self.limits[key] = limit

    @rule(key=consumes(running), part=st.integers(0, 100))
    def answer_ends(self, key: int, part: int) -> None:
        while self.streams[key]:
            self.voucher_arrives(key)
        self.receipt_is_signed()
        cost = self.limits[key] * part // 100
        self.node.shrink(key, cost)
        self.client.settle(key, cost)
        self.signing = (key, cost)

    @rule()
    def receipt_is_signed(self) -> None:
        if self.signing is not None:
            self.node.settle(*self.signing)
            self.signing = None

    @invariant()
    def holds(self) -> None:
        self.client.check()
        self.node.check()


TestChannel = Channel.TestCase
TestChannel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_is_not_covered_is_refused_and_changes_nothing() -> None:
    account = Account(100, 300, 1000)
    account.reserve(1, 150)
    for wrong in (
        lambda: account.reserve(2, 51),
        lambda: account.want(2, 800),
    ):
        with pytest.raises(PaymentRequired):
            wrong()
    assert (account.needed, account.voucher) == (250, 300)


def test_a_voucher_above_the_deposit_is_good_for_the_deposit() -> None:
    account = Account(100, 300, 1000)
    account.raise_voucher(5000)
    account.reserve(1, 900)
    with pytest.raises(PaymentRequired, match="the deposit of 1000"):
        account.reserve(2, 1)
    account.deposit = 1001
    account.reserve(2, 1)


def test_what_was_reserved_stays_when_the_deposit_sinks() -> None:
    account = Account(100, 300, 1000)
    account.reserve(1, 150)
    account.deposit = 90
    account.reserve(1, 150)
    with pytest.raises(PaymentRequired, match="the deposit of 90"):
        account.reserve(1, 151)
    account.check()


@given(
    price=st.builds(Price, st.integers(0, 100), st.integers(0, 100)),
    prompt=st.integers(1, 500),
    tokens=st.integers(0, 500),
)
def test_credit_is_the_inverse_of_cost(price: Price, prompt: int, tokens: int) -> None:
    limit = price.cost(prompt, tokens)
    assert price.credit(limit, prompt, 500) >= tokens
    if price.completion:
        assert price.credit(limit, prompt, 500) == tokens
        assert tokens == 0 or price.credit(limit - 1, prompt, 500) < tokens


@given(data=st.binary(max_size=200))
@example(data=b"\x91\xa5\x00\x00\x00\x00\x80")  # a name that is no UTF-8
def test_garbage_is_no_message(data: bytes) -> None:
    for decode in (wire.decode_from_client, wire.decode_from_node):
        try:
            message = decode(data)
        except wire.WireError:
            continue
        assert wire.encode(message) == data


def test_a_longer_form_of_a_message_is_refused() -> None:
    pay = wire.Pay(5, 6, bytes(65))
    longer = msgspec.msgpack.encode(["Pay", 5, 6, bytes(65)]).replace(b"\x05", b"\xcc\x05", 1)
    assert wire.decode_from_client(wire.encode(pay)) == pay
    with pytest.raises(wire.WireError, match="canonical"):
        wire.decode_from_client(longer)

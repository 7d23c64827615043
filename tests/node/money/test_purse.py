"""The client's money: after the offer, in small steps, within a cap, and back again. The chain is
in memory; what a node does with a channel is wire's.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import trio

from node.errors import BadRequest, NoChannel, PaymentRequired
from node.money import purse
from node.money.book import ChannelBook
from node.money.purse import MAX_CHANNELS_IN_DOUBT, WITHDRAW_DELAY_S, Pocket, Purse
from node.money.vault import Limits, Vault
from node.telemetry import Telemetry
from node.wire.channels import Promised
from node.wire.notary import Notary
from p2p.identity import Identity
from proofs.attribution.shares import POLICY
from proofs.chain.errors import ContractReverted, TransactionStuck
from proofs.ledger import Ledger
from proofs.voucher import ChannelConfig, channel_id
from tests.p2p.helpers import eventually
from tests.proofs import scene
from tests.proofs.scene import NETWORK, signer

LIMITS = Limits(first=1_000, step=8_000, most=20_000, locked=30_000)
IDLE_S = 1_000.0


@dataclass
class OnChain:
    """One channel there."""

    balance: int = 0
    total_claimed: int = 0
    withdraw_requested_at: int = 0
    withdraw_amount: int = 0


@dataclass
class TwinChain:
    """The channels contract in memory. `stuck`: deposits are sent and not mined yet."""

    channels: dict[bytes, OnChain] = field(default_factory=dict)
    now: float = 1_800_000_000.0
    stuck: list[tuple[bytes, int]] = field(default_factory=list)
    is_stuck: bool = False
    refuses: bool = False
    num_deposits: int = 0
    mined: threading.Event = field(default_factory=threading.Event)
    confirmed: threading.Event | None = None
    """If given, deposits are mined at once and return when this is set."""

    def read_many(
        self, channel_ids: Sequence[bytes], block: str | int | None = None
    ) -> list[OnChain]:
        assert block == "latest", "a payer sees its own deposit in the newest block"
        return [self.channels.get(each, OnChain()) for each in channel_ids]

    def deposit(self, config: ChannelConfig, amount: int) -> None:
        self.num_deposits += 1
        if self.refuses:
            raise ContractReverted("Refused", (), "", b"")
        name = channel_id(config, NETWORK)
        if self.is_stuck:
            self.stuck.append((name, amount))
            raise TransactionStuck("not mined in time")
        self.mine(name, amount)
        if self.confirmed is not None:
            self.mined.set()
            assert self.confirmed.wait(60)

    def mine(self, name: bytes, amount: int) -> None:
        self.channels.setdefault(name, OnChain()).balance += amount

    def initiate_withdraw(self, config: ChannelConfig, amount: int) -> None:
        channel = self.channels[channel_id(config, NETWORK)]
        channel.withdraw_amount = amount
        channel.withdraw_requested_at = int(self.now)

    def finalize_withdraw(self, config: ChannelConfig) -> None:
        channel = self.channels[channel_id(config, NETWORK)]
        assert self.now >= channel.withdraw_requested_at + config.withdraw_delay
        channel.balance -= min(channel.withdraw_amount, channel.balance - channel.total_claimed)
        channel.withdraw_requested_at = 0

    @property
    def locked(self) -> int:
        return sum(each.balance - each.total_claimed for each in self.channels.values())


@dataclass
class Scene:
    """A purse over a real ledger."""

    home: Path
    chain: TwinChain = field(default_factory=TwinChain)
    payer: str = "client"

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.home.mkdir(exist_ok=True)
        self.book = ChannelBook(Ledger(self.home / "ledger.sqlite"))
        self.purse = Purse(
            Notary(signer(self.payer), NETWORK),
            self.book,
            Vault(self.chain, LIMITS),
            on_receipt=lambda receipt: None,
            telemetry=Telemetry(stream=io.StringIO()),
            idle_s=IDLE_S,
            clock=lambda: self.chain.now,
        )

    async def fund(self, pocket: Pocket, limit: int) -> None:
        """What an answer does after its offer, up to `limit`, and pays."""
        key = pocket.channel.begin(_deal())
        await self.purse.deposit(pocket, key, limit)
        payment = pocket.channel.pay(key, limit)
        assert payment.persist is not None
        self.purse.keep(payment.persist)


def _deal() -> object:
    """As much of a deal as a purse sees of it."""

    class Deal:
        terms = scene.TERMS
        policy = POLICY

        def receipt(self, *_: object) -> object:
            return scene.receipt(scene.ChannelTip(scene.config()))

    return Deal()


def node(number: int) -> str:
    return Identity.from_secret(bytes([1, number]).rjust(32, b"\2")).peer_id


async def test_peers_that_only_announce_lock_nothing(tmp_path: Path) -> None:
    scene_ = Scene(tmp_path)
    for number in range(6):
        await scene_.purse.pocket(node(number))
    assert scene_.chain.num_deposits == 0
    assert all(row.locked == 0 for row in scene_.book.all())


async def test_money_follows_the_offer_in_steps_that_grow_with_what_was_spent(
    tmp_path: Path,
) -> None:
    scene_ = Scene(tmp_path)
    pocket = await scene_.purse.pocket(node(0))
    await scene_.fund(pocket, 500)
    assert scene_.chain.locked == 1_000
    await scene_.fund(pocket, 1_700)
    assert scene_.chain.locked == 1_000 + 1_200  # what was missing is more than the step
    row = pocket.channel.row
    spent = msgspec.structs.replace(row, cumulative=2_200, voucher=2_200, promised=())
    scene_.book.save(spent)
    scene_.restart()
    pocket = await scene_.purse.pocket(node(0))
    await scene_.fund(pocket, 10)
    assert scene_.chain.channels[row.channel_id].balance == 2_200 + 4_400


async def test_more_than_the_cap_lies_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purse, "FREE_DEADLINE_S", 0.1)
    scene_ = Scene(tmp_path)
    for number in range(3):
        await scene_.fund(await scene_.purse.pocket(node(number)), 9_000)
    pocket = await scene_.purse.pocket(node(4))
    with pytest.raises(PaymentRequired, match="max_locked"):
        await scene_.fund(pocket, 9_000)
    with pytest.raises(PaymentRequired, match="max_channel_deposit"):
        await scene_.fund(await scene_.purse.pocket(node(0)), 19_000)
    scene_.restart()
    with pytest.raises(PaymentRequired, match="max_locked"):
        await scene_.fund(await scene_.purse.pocket(node(5)), 9_000)
    assert scene_.chain.locked <= LIMITS.locked


async def test_a_deposit_that_was_mined_late_is_found_and_not_made_again(tmp_path: Path) -> None:
    scene_ = Scene(tmp_path)
    scene_.chain.is_stuck = True
    pocket = await scene_.purse.pocket(node(0))
    with pytest.raises(NoChannel):
        await scene_.fund(pocket, 900)
    [row] = scene_.book.all()
    assert row.locked == 1_000, "what may still come counts"
    scene_.restart()
    scene_.chain.is_stuck = False
    for late in scene_.chain.stuck:
        scene_.chain.mine(*late)
    for _ in range(3):
        pocket = await scene_.purse.pocket(node(0))
    await scene_.fund(pocket, 900)
    assert scene_.chain.num_deposits == 1
    assert len(scene_.book.all()) == 1


async def test_a_deposit_that_other_requests_see_mined_counts_once(tmp_path: Path) -> None:
    scene_ = Scene(tmp_path)
    pocket = await scene_.purse.pocket(node(0))
    await scene_.fund(pocket, 900)
    scene_.chain.confirmed = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene_.fund, pocket, 700)
        await trio.to_thread.run_sync(scene_.chain.mined.wait, 60)
        assert await scene_.purse.pocket(node(0)) is pocket
        scene_.chain.confirmed.set()
    scene_.chain.confirmed = None
    for _ in range(4):
        await scene_.fund(pocket, 500)
    name = pocket.channel.channel_id
    assert pocket.channel.row.reserved <= scene_.chain.channels[name].balance
    assert pocket.channel.row.funds.deposit == scene_.chain.channels[name].balance


async def test_where_the_cap_is_reached_a_request_waits_for_what_others_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene_ = Scene(tmp_path)
    pocket = await scene_.purse.pocket(node(0))
    await scene_.fund(pocket, 19_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene_.fund, pocket, 9_000)
        await eventually(lambda: pocket.changed.statistics().tasks_waiting == 1)
        left = pocket.channel.release(1)
        assert left is not None
        scene_.purse.keep(left)
    assert pocket.channel.row.reserved == 9_000
    assert scene_.chain.locked <= LIMITS.most
    monkeypatch.setattr(purse, "FREE_DEADLINE_S", 0.1)
    with pytest.raises(PaymentRequired, match="max_channel_deposit"):
        await scene_.fund(pocket, 19_000)  # nobody left anything


async def test_a_deposit_that_is_only_for_later_keeps_nobody_waiting(tmp_path: Path) -> None:
    scene_ = Scene(tmp_path)
    pocket = await scene_.purse.pocket(node(0))
    await scene_.fund(pocket, 800)
    pocket.channel.low = 500
    scene_.chain.confirmed = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene_.fund, pocket, 10)
        await trio.to_thread.run_sync(scene_.chain.mined.wait, 60)
        await scene_.fund(pocket, 100)  # which is there
        scene_.chain.confirmed.set()
    assert scene_.chain.num_deposits == 2


async def test_a_refused_deposit_is_not_under_way(tmp_path: Path) -> None:
    scene_ = Scene(tmp_path)
    scene_.chain.refuses = True
    with pytest.raises(NoChannel, match="refused"):
        await scene_.fund(await scene_.purse.pocket(node(0)), 900)
    [row] = scene_.book.all()
    assert row.locked == 0


async def test_every_channel_of_a_node_is_tried_and_their_names_follow_from_the_key(
    tmp_path: Path,
) -> None:
    scene_ = Scene(tmp_path)
    first = await scene_.purse.pocket(node(0))
    await scene_.fund(first, 900)
    scene_.chain.channels[first.channel.channel_id].withdraw_requested_at = 1
    scene_.restart()
    second = await scene_.purse.pocket(node(0))
    assert [row.config.salt[20:] for row in scene_.book.all()] == [bytes(12), bytes(11) + b"\1"]
    scene_.chain.channels[first.channel.channel_id].withdraw_requested_at = 0
    scene_.restart()
    again = await scene_.purse.pocket(node(0))
    assert again.channel.channel_id == first.channel.channel_id != second.channel.channel_id


async def test_a_key_that_lost_its_disk_finds_its_money(tmp_path: Path) -> None:
    before = Scene(tmp_path / "before")
    pocket = await before.purse.pocket(node(0))
    await before.fund(pocket, 900)
    after = Scene(tmp_path / "after", before.chain)
    fresh = await after.purse.pocket(node(0))
    assert fresh.channel.channel_id != pocket.channel.channel_id
    found, _ = after.book.all()
    assert (found.channel_id, found.funds.is_closed) == (pocket.channel.channel_id, True)
    await after.purse.tidy()
    after.chain.now += WITHDRAW_DELAY_S
    await after.purse.tidy()
    assert after.chain.locked == 0


async def test_a_node_that_refuses_channels_gets_no_end_of_them(tmp_path: Path) -> None:
    scene_ = Scene(tmp_path)
    for _ in range(MAX_CHANNELS_IN_DOUBT):
        pocket = await scene_.purse.pocket(node(0))
        await scene_.fund(pocket, 900)
        scene_.purse.forget(pocket)
    with pytest.raises(NoChannel, match="comes back"):
        await scene_.purse.pocket(node(0))


async def test_idle_money_comes_back_by_itself_but_for_what_may_be_billed(tmp_path: Path) -> None:
    scene_ = Scene(tmp_path)
    pocket = await scene_.purse.pocket(node(0))
    await scene_.fund(pocket, 600)
    channel = scene_.chain.channels[pocket.channel.channel_id]
    pocket.channel.leave(1)
    await scene_.purse.tidy()
    assert channel.withdraw_requested_at == 0, "it is in use"
    await scene_.purse.withdraw(pocket.channel.channel_id)
    assert channel.withdraw_amount == 400, "600 may still be billed"
    scene_.chain.now += WITHDRAW_DELAY_S
    for _ in range(3):
        await scene_.purse.tidy()
        scene_.chain.now += WITHDRAW_DELAY_S
    assert scene_.chain.locked == 0, "nobody billed it for long"
    [info] = await scene_.purse.channels()
    assert (info.state, info.balance) == ("closed", 0)


async def test_a_withdrawal_takes_what_is_free_and_says_when(tmp_path: Path) -> None:
    scene_ = Scene(tmp_path)
    for number in range(2):
        pocket = await scene_.purse.pocket(node(number))
        await scene_.fund(pocket, 100)
        pocket.visits = number
    with pytest.raises(BadRequest, match="now"):
        await scene_.purse.withdraw(pocket.channel.channel_id)
    with pytest.raises(BadRequest, match="no such channel"):
        await scene_.purse.withdraw(b"?" * 32)
    [info] = await scene_.purse.withdraw(None)  # the other one is in use
    assert info.state == "withdrawing"
    assert info.available_at == scene_.chain.now + WITHDRAW_DELAY_S


async def test_what_is_remembered_is_one_row_a_promise(tmp_path: Path) -> None:
    scene_ = Scene(tmp_path)
    pocket = await scene_.purse.pocket(node(0))
    for _ in range(3):
        await scene_.fund(pocket, 100)
    [row] = scene_.book.all()
    assert [type(each) for each in row.promised] == [Promised] * 3
    assert row.reserved == 300
    scene_.purse.check()

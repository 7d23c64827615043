"""Channels that run dry, reach the operator's bound, or are taken back by their payer: real daemons
on a real chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.errors import NodeRefused, PaymentRequired
from node.money.book import ChannelBook
from node.wire import channels as wire_channels
from node.wire.channels import ChannelRow
from proofs.chain.client import ChainClient, open_client
from proofs.ledger import Ledger
from tests.node.networks import Lab, ask, open_lab, until

TINY = 2_000  # a question of 5 tokens costs 50, an answer 50 a token


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    names = ("volunteer", "gateway", "patient volunteer", "leaving gateway")
    with open_lab(tmp_path_factory.mktemp("lab"), chain_for=names) as lab:
        yield lab


def channels(home: Path) -> list[ChannelRow]:
    ledger = Ledger(home / "ledger.sqlite")
    try:
        return ChannelBook(ledger).all()
    finally:
        ledger.close()


def chain_of(lab: Lab, name: str) -> ChainClient:
    assert lab.chain is not None
    return open_client(
        lab.chain.rpc,
        bytes.fromhex(lab.chain.settlement.removeprefix("0x")),
        lab.identity(name).secret,
    )


async def test_a_channel_is_filled_as_it_is_used_up_as_far_as_the_operator_allows(lab: Lab) -> None:
    lab.bootstrap = ()
    deposits: dict[str, Any] = {"channel_deposit": TINY, "max_channel_deposit": 3 * TINY}
    async with (
        lab.daemon("volunteer") as volunteer,
        lab.daemon("gateway", role="gateway", **deposits) as gateway,
    ):
        for _ in range(3):
            assert (
                await ask(gateway, max_tokens=90)
            ).ended.completion_tokens == 90  # 4,550: filled in mid-answer, and between answers
        (row,) = channels(gateway.config.home)
        assert row.cumulative == 3 * 4_550
        chain = chain_of(lab, "gateway")
        assert (
            row.cumulative
            <= chain.channels.read(row.channel_id).balance
            <= row.cumulative + 3 * TINY
        )
        with pytest.raises(PaymentRequired, match="max_channel_deposit"):
            await ask(gateway, max_tokens=900)
        assert (
            await ask(gateway, max_tokens=2)
        ).ended.completion_tokens == 2  # what broke off is settled first
        assert volunteer.telemetry.counters["receipts_earned"] == 5
        (row,) = channels(gateway.config.home)
        assert chain.channels.read(row.channel_id).balance <= row.cumulative + 3 * TINY
        chain.close()


async def test_a_requested_withdrawal_is_refused_by_name_and_the_voucher_claimed_at_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.bootstrap = ()
    monkeypatch.setattr(wire_channels, "RECHECK_S", 0.0)
    never = {"claim_interval_s": 3600.0}
    async with (
        lab.daemon("patient volunteer", **never),
        lab.daemon("leaving gateway", role="gateway", **never) as gateway,
    ):
        owed = (await ask(gateway)).ended.amount
        (row,) = channels(gateway.config.home)
        chain = chain_of(lab, "leaving gateway")
        assert chain.channels.read(row.channel_id).total_claimed == 0
        chain.channels.initiate_withdraw(row.config, 10_000)
        with pytest.raises(NodeRefused, match="withdrawal of this channel is under way") as refused:
            await ask(gateway)
        assert refused.value.code == "no_channel"
        await until(lambda: chain.channels.read(row.channel_id).total_claimed == owed)
        assert (await ask(gateway)).ended.completion_tokens == 8  # through another channel
        assert len(channels(gateway.config.home)) == 2
        chain.close()

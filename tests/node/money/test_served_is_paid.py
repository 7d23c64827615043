"""Clients that take answers and keep their money, and nodes that bill what was not agreed: whole
daemons on a real chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import trio

from node.answering.remote import Call
from node.errors import BadRequest, NodeCheated, NodeError, NodeRefused
from node.money.purse import Purse
from node.wire.channels import PayeeChannel, Persist
from node.wire.client_session import ClientSession
from node.wire.metering import Deal
from node.wire.node_session import NodeSession
from proofs.chain.client import ChainClient, open_client
from tests.node.networks import Lab, ask, open_lab, until

from .test_channels import channels

NEVER = {"claim_interval_s": 3600.0}
THIEF = b"\x66" * 20


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One chain for all tests of this file; each takes daemons of its own names."""
    names = tuple(
        f"{role} {number}" for role in ("volunteer", "gateway", "thief") for number in range(4)
    )
    with open_lab(tmp_path_factory.mktemp("lab"), chain_for=names) as lab:
        lab.bootstrap = ()
        yield lab


def chain_of(lab: Lab, name: str) -> ChainClient:
    assert lab.chain is not None
    settlement = bytes.fromhex(lab.chain.settlement.removeprefix("0x"))
    return open_client(lab.chain.rpc, settlement, lab.identity(name).secret)


async def test_a_client_that_never_signs_pays_for_all_it_was_sent(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.bootstrap = ()
    async with (
        lab.daemon("volunteer 0", grace_s=1.0) as volunteer,
        lab.daemon("thief 0", role="gateway") as thief,
    ):

        def keep_the_signature(self: ClientSession, *_: object) -> None:
            raise NodeError("we have what we wanted")

        async def another_channel(self: Purse, operator: bytes) -> None:
            return None

        monkeypatch.setattr(ClientSession, "_take_done", keep_the_signature)
        monkeypatch.setattr(Purse, "_find", another_channel)
        for _ in range(2):
            with pytest.raises(NodeError, match="what we wanted"):
                await ask(thief, max_tokens=40, node=volunteer.host.peer_id)
            thief.money.purse._pockets.clear()  # type: ignore[union-attr]
        monkeypatch.undo()
        await until(lambda: volunteer.telemetry.counters.get("receipts_unilateral") == 2)
        rows = await volunteer.receipts()
        assert [row.tokens for row in rows] == [45, 45]
        assert await thief.receipts() == []
        chain = chain_of(lab, "thief 0")

        def is_claimed() -> bool:
            return sum(
                chain.channels.read(row.channel_id).total_claimed
                for row in channels(volunteer.config.home)
            ) == sum(row.amount for row in rows)

        await until(is_claimed)
        chain.close()


async def test_a_signature_that_comes_late_is_added(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.bootstrap = ()
    async with (
        lab.daemon("volunteer 1", grace_s=1.0, **NEVER) as volunteer,
        lab.daemon("gateway 1", role="gateway") as gateway,
    ):
        real = Call.next_tokens

        async def crash(self: Call) -> Any:
            tokens = await real(self)
            if self._session.num_tokens > 3:
                raise NodeError("our own crash")
            return tokens

        with monkeypatch.context() as patch:
            patch.setattr(Call, "next_tokens", crash)
            with pytest.raises(NodeError, match="own crash"):
                await ask(gateway, max_tokens=200)
        await until(volunteer.receipts)
        (alone,) = await volunteer.receipts()
        unsigned = await volunteer.receipt(alone.digest)
        await ask(gateway, max_tokens=5)
        assert len(await volunteer.receipts()) == 2
        signed = await volunteer.receipt(alone.digest)
        assert len(signed) == len(unsigned) + 65
        assert await gateway.receipt(alone.digest) == signed


async def test_a_channel_that_was_emptied_pays_no_answer_and_costs_others_nothing(
    lab: Lab,
) -> None:
    lab.bootstrap = ()
    async with (
        lab.daemon("volunteer 2", **NEVER) as volunteer,
        lab.daemon("thief 2", role="gateway") as thief,
        lab.daemon("gateway 2", role="gateway") as gateway,
    ):
        owed = (await ask(gateway, node=volunteer.host.peer_id)).ended.amount
        await ask(thief, node=volunteer.host.peer_id, max_tokens=40)
        (row,) = channels(thief.config.home)
        chain = chain_of(lab, "thief 2")
        left = 101
        chain.channels.initiate_withdraw(row.config, row.funds.deposit - left)
        chain.rpc.call("evm_increaseTime", row.config.withdraw_delay + 1)
        chain.channels.finalize_withdraw(row.config)
        assert chain.channels.read(row.channel_id).balance == left < row.cumulative
        assert volunteer.money is not None
        assert volunteer.money.till is not None
        tab = volunteer.money.till._tabs[row.channel_id]
        tab.channel.read_at = float("-inf")  # the node was not asked for long
        with pytest.raises(NodeRefused, match="dead: it holds 101") as refused:
            await ask(thief, node=volunteer.host.peer_id)
        assert refused.value.code == "no_channel"
        states = {each.channel: each.state for each in await volunteer.channels()}
        assert states[row.channel_id.hex()] == "dead"
        (honest,) = channels(gateway.config.home)
        await until(lambda: chain.channels.read(honest.channel_id).total_claimed == owed)
        assert chain.channels.read(row.channel_id).total_claimed == left
        chain.close()


async def test_a_node_that_breaks_off_on_purpose_bills_nobody_else_s_share(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.bootstrap = ()
    async with (
        lab.daemon("thief 3", grace_s=3600.0) as thief,
        lab.daemon("gateway 3", role="gateway") as gateway,
    ):

        def break_off(self: NodeSession, now: float) -> None:
            raise BadRequest("no receipt for you")

        def draft(self: PayeeChannel, key: int, deal: Deal, *rest: Any) -> Persist:
            stolen = replace(deal, offer=msgspec.structs.replace(deal.offer, owner=THIEF))
            return real_draft(self, key, stolen, *rest)

        real_draft = PayeeChannel.draft
        with monkeypatch.context() as patch:
            patch.setattr(NodeSession, "_show_own", break_off)
            patch.setattr(PayeeChannel, "draft", draft)
            with pytest.raises(NodeRefused):
                await ask(gateway, max_tokens=30)
        assert thief.money is not None
        with pytest.raises(NodeCheated, match="another owner"):
            await ask(gateway, max_tokens=30)
        assert await gateway.receipts() == []
        assert gateway.telemetry.counters["answers_rejected"] == 1
        await ask(gateway, max_tokens=3)  # through another channel
        assert [row.funds.is_closed for row in channels(gateway.config.home)] == [True, False]


async def test_many_requests_of_one_channel_survive_one_that_breaks_off(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.bootstrap = ()
    async with (
        lab.daemon("volunteer 3", **NEVER) as volunteer,
        lab.daemon("gateway 0", role="gateway") as gateway,
    ):
        await ask(gateway, max_tokens=2)
        real = Call.next_tokens

        async def crash(self: Call) -> Any:
            if self._session._ask.max_tokens == 77 and self._session.num_tokens > 3:
                raise NodeError("our own crash")
            return await real(self)

        monkeypatch.setattr(Call, "next_tokens", crash)
        ended = []

        async def one(max_tokens: int) -> None:
            try:
                ended.append((await ask(gateway, max_tokens=max_tokens)).ended.completion_tokens)
            except NodeError:
                ended.append(0)

        async with trio.open_nursery() as nursery:
            for max_tokens in (77, 150, 160):
                nursery.start_soon(one, max_tokens)
        assert sorted(ended) == [0, 150, 160]
        await ask(gateway, max_tokens=2)
        assert len(await volunteer.receipts()) == 5

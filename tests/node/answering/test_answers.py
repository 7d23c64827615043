"""Daemons answer each other over libp2p, pay as it streams, and end with one receipt that both
signed.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from engine.messages import Choosing, Grammar
from node.answering.stream import open_answer
from node.api.answers import Delta, EmbeddingRequest
from node.errors import BadRequest, EngineLost, NodeRefused, NoEngine
from tests.node.networks import ask, open_lab, until
from tests.node.tiny import make_adapter


async def test_a_gateway_pays_a_volunteer_and_both_hold_the_same_receipt(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway")) as lab:
        async with (
            lab.daemon("volunteer") as volunteer,
            lab.daemon("gateway", role="gateway") as gateway,
        ):
            answers: list[int] = []

            async def ask_once(tokens: int) -> None:
                answered = await ask(gateway, max_tokens=tokens)
                assert answered.started.served_by == volunteer.host.peer_id
                assert answered.ended.receipt is not None
                assert answered.ended.amount == 5 * 10 + answered.ended.completion_tokens * 50
                answers.append(answered.ended.amount)

            await ask_once(70)
            async with trio.open_nursery() as nursery:
                for tokens in (3, 40, 64):
                    nursery.start_soon(ask_once, tokens)
            assert volunteer.money is not None
            till = volunteer.money.till
            assert till is not None
            assert till.has_paid(lab.address("gateway"))
            assert not till.has_paid(lab.address("stranger"))
            ours = await gateway.receipts()
            theirs = await volunteer.receipts()
            assert sorted(row.digest for row in ours) == sorted(row.digest for row in theirs)
            assert sorted(row.amount for row in ours) == sorted(answers)
            assert {row.sequence for row in ours} == {1, 2, 3, 4}
            assert {row.role for row in ours} == {"client"}
            assert await gateway.receipt(ours[0].digest) == await volunteer.receipt(ours[0].digest)


async def test_what_shapes_an_answer_crosses_the_network_and_a_node_answers_within_it(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("volunteer"), lab.daemon("gateway", role="gateway") as gateway:
            digits = await ask(
                gateway,
                max_tokens=40,
                choosing=Choosing(1.0, grammar=Grammar("regex", "[0-9]{4}-[0-9]{2}")),
                seed=3,
                logprobs=2,
            )
            assert re.fullmatch("[0-9]{4}-[0-9]{2}", digits.text)
            assert digits.ended.reason == "stop"
            assert "".join(each.token.text for each in digits.logprobs) == digits.text
            assert all(
                len(each.top) == 2 and each.top[0].logprob >= each.top[1].logprob
                for each in digits.logprobs
            )
            schema = {
                "type": "object",
                "properties": {"ok": {"type": "boolean"}},
                "required": ["ok"],
                "additionalProperties": False,
            }
            shaped = await ask(
                gateway,
                max_tokens=60,
                choosing=Choosing(1.0, grammar=Grammar("json_schema", json.dumps(schema))),
                seed=4,
            )
            assert set(json.loads(shaped.text)) == {"ok"}
            banned = dict.fromkeys(digits.token_ids, -100.0)
            other = await ask(
                gateway,
                max_tokens=12,
                choosing=Choosing(
                    1.0,
                    logit_bias=sorted(banned.items()),
                    presence_penalty=2.0,
                    min_p=0.001,
                ),
                seed=3,
            )
            assert not set(other.token_ids) & set(banned)
            with pytest.raises(NodeRefused, match="grammar is refused") as refused:
                await ask(gateway, choosing=Choosing(grammar=Grammar("regex", "(a|")))
            assert refused.value.code == "bad_request"  # no other node could follow it either


async def test_receipts_become_money_for_whoever_earned_it(tmp_path: Path) -> None:
    names = ("volunteer", "gateway", "aggregator", "creator")
    with open_lab(tmp_path, chain_for=names) as lab:
        assert lab.chain is not None
        aggregator_id = lab.identity("aggregator").peer_id
        creator_id = lab.identity("creator").peer_id
        owner = b"\x07" * 20
        everybody = {"aggregator": aggregator_id, "publishers": (creator_id,)}
        async with AsyncExitStack() as stack:
            aggregator = await stack.enter_async_context(
                lab.daemon("aggregator", role="aggregator", **everybody)
            )
            creator = await stack.enter_async_context(lab.daemon("creator", **everybody))
            volunteer = await stack.enter_async_context(
                lab.daemon("volunteer", owner="0x" + owner.hex(), **everybody)
            )
            gateway = await stack.enter_async_context(
                lab.daemon("gateway", role="gateway", **everybody)
            )
            await creator.push(make_adapter(tmp_path / "law", "law", 5))
            contributor = (6).to_bytes(20, "big")
            amounts = [
                (
                    await ask(gateway, model=model, max_tokens=40, node=volunteer.host.peer_id)
                ).ended.amount
                for model in ("law", "base", "law")
            ]

            async def all_final() -> bool:
                rows = [*await volunteer.receipts(), *await gateway.receipts()]
                return len(rows) == 6 and all(row.state == "final" for row in rows)

            async def all_counted() -> (
                bool
            ):  # the aggregator mirrors its own batches a moment after it posts them
                return sum(row.credited for row in await aggregator.earnings()) == sum(amounts)

            await until(all_final)
            await until(all_counted)
            expected = dict.fromkeys((owner, lab.address("creator"), contributor), 0)
            for amount in (amounts[0], amounts[2]):
                parts = [amount * bps for bps in (6000, 2500, 1500)]
                for account, part in zip(expected, parts, strict=True):
                    expected[account] += part // 10_000
            expected[owner] += amounts[1]
            credited = {row.address: row.credited for row in await aggregator.earnings()}
            assert credited.keys() == {"0x" + account.hex() for account in expected}
            assert all(
                0 <= credited["0x" + account.hex()] - amount <= 2
                for account, amount in expected.items()
            )  # whole units are shared out

            async def owner_is_paid() -> bool:
                (row,) = [
                    row for row in await volunteer.earnings() if row.address == "0x" + owner.hex()
                ]
                return row.claimed == row.balance == row.credited == credited[row.address]

            await until(owner_is_paid)
            assert aggregator.telemetry.counters["receipts_accepted"] == 3
            assert sum(amounts) == sum(credited.values())


async def test_an_answer_that_is_left_without_an_end_says_so_once() -> None:
    sender, receiver = open_answer()
    sender.put(Delta("a", (1,)))
    sender.close()
    heard = []
    with pytest.raises(EngineLost, match="daemon is stopping"):
        async for event in receiver:
            heard.append(event)
    assert heard == [Delta("a", (1,))]
    assert [event async for event in receiver] == []


async def test_a_volunteer_embeds_for_its_adapters_and_a_gateway_says_why_it_cannot(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        async with (
            lab.daemon("volunteer") as volunteer,
            lab.daemon("gateway", role="gateway") as gateway,
        ):
            await volunteer.push(make_adapter(tmp_path / "law", "law", 5))
            base, again, law = [
                await volunteer.embed(EmbeddingRequest(model, ("May I?", "No.", (5, 6))))
                for model in ("base", "base", "law")
            ]
            assert base.vectors == again.vectors
            assert len({*base.vectors, *law.vectors}) == 6
            assert (base.cid, base.served_by) == (None, volunteer.host.peer_id)
            assert law.cid is not None
            for vector in law.vectors:
                assert math.hypot(*array("f", vector)) == pytest.approx(1.0, abs=1e-5)
            with pytest.raises(BadRequest, match="input 1: a token id is not in"):
                await volunteer.embed(EmbeddingRequest("law", ("a", (99_999,))))
            with pytest.raises(NoEngine, match="carries no vectors"):
                await gateway.embed(EmbeddingRequest("law", ("May I?",)))

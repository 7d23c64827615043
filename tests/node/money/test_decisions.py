"""What people decide on a real chain, and what whole daemons make of it: the long form of
test_governing.py.
"""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.messages import Choosing
from node.daemon import NodeDaemon
from node.money.audit import audit_chain
from node.testnet.deciding import carry, pass_time
from p2p.identity import Identity
from proofs.chain.client import ChainClient
from proofs.chain.governance import Governance
from proofs.hextext import from_hex
from proofs.hindsight import replay, simulate
from proofs.parameters import (
    AUDIT_ONE_IN,
    COMPLETION_FLOOR,
    CREATOR_SHARE,
    DEFAULTS,
    LEAST_FEE,
    MOST_ANSWER_TOKENS,
    NODE_SHARE,
    PROMISE_S,
)
from proofs.signing import Signer
from tests.node.answering.test_cocktails_among_daemons import AdapterBlocks
from tests.node.networks import Lab, ask, open_lab, until
from tests.node.tiny import make_adapter

NAMES = ("node", "client", "aggregator")
OWN_PRICE = 50


@asynccontextmanager
async def people_of(lab: Lab):
    """The governor, for the key that has all votes."""
    assert lab.chain is not None
    client: ChainClient = lab.chain.client(from_hex(lab.chain.owner_key))
    try:
        yield client, client.open_governance(from_hex(lab.chain.governor))
    finally:
        client.close()


async def decide(client: ChainClient, people: Governance, changes: dict[str, int]) -> int:
    """Write a new version, by a vote."""
    named = tuple(changes.items())

    def tell(_step: str, _said: str) -> None:
        pass

    return await trio.to_thread.run_sync(carry, people, client.rpc, named, "# Why", tell)


def parameters(daemon: Any) -> dict[str, Any]:
    found: dict[str, Any] = daemon.money.describe()["parameters"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_decision_is_applied_from_the_next_epoch_on_within_the_bounds(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=NAMES, witnesses=("node",)) as lab:
        assert lab.chain is not None
        everybody = {
            "governor": lab.chain.governor,
            "aggregator": lab.identity("aggregator").peer_id,
            "witnesses": (lab.identity("node").peer_id,),
            "watch_interval_s": 0.3,
            "completion_price": OWN_PRICE,
            "prompt_price": 1,
        }
        async with (
            people_of(lab) as (chain, people),
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("node", **everybody) as node,
            lab.daemon("client", role="gateway", **everybody) as client,
        ):
            daemons = (aggregator, node, client)
            await until(lambda: all(parameters(one)["version"] == 1 for one in daemons))
            await until(lambda: node.host.peer_id in {one.peer_id for one in client.peers()})
            before = await ask(client)
            await until(lambda: chain.settlement.last_epoch() == 1)

            changes = {
                COMPLETION_FLOOR: 80,
                CREATOR_SHARE: 1_500,
                AUDIT_ONE_IN: 20,
                MOST_ANSWER_TOKENS: 128,
                PROMISE_S: 59,
            }
            version = await decide(chain, people, changes)
            assert version == 2
            await until(lambda: all(parameters(one)["newest_version"] == 2 for one in daemons))
            assert parameters(node)["version"] == 1, "not in the middle of an epoch"
            assert node.money.decided().ruling.values == DEFAULTS

            # Asked and answered in this epoch: the receipt has the price that was quoted.
            within = await ask(client)
            assert within.ended.amount == before.ended.amount
            await until(lambda: all(parameters(one)["version"] == 2 for one in daemons))
            told = parameters(node)
            assert told["changed"] == {
                COMPLETION_FLOOR: "80",
                CREATOR_SHARE: "1500",
                AUDIT_ONE_IN: "20",
                MOST_ANSWER_TOKENS: "128",
            }
            assert {one["name"] for one in told["refused"]} == {PROMISE_S}
            checked = [one for one in await node.checkup() if one.part == "parameters"]
            assert [one.state for one in checked] == ["ok", "note"]

            dearer = await ask(client)
            paid = len(dearer.token_ids)
            assert dearer.ended.amount == before.ended.amount + paid * (80 - OWN_PRICE)
            await until(lambda: chain.settlement.last_epoch() == 3)

            # The guardian pauses: nothing is posted, and what was earned waits.
            await trio.to_thread.run_sync(people.pause, 60)
            await until(lambda: all(one.money.is_paused() for one in daemons))
            await ask(client)
            await until(lambda: "posting" in aggregator.telemetry.troubles)
            await trio.to_thread.run_sync(chain.rpc.call, "evm_mine")
            assert chain.settlement.last_epoch() == 3
            until_then = people.read_guardian().paused_until
            await trio.to_thread.run_sync(pass_time, chain.rpc, until_then)
            await until(lambda: chain.settlement.last_epoch() == 4)
            assert "posting" not in aggregator.telemetry.troubles


async def earnings(daemons: tuple[NodeDaemon, ...]) -> dict[bytes, int]:
    """What every account was awarded so far, which all of these recomputed to the unit."""
    seen = []
    for one in daemons:
        state = one.money.mirror.history.state
        seen.append({account: state.amount(account) for account in state.all_accounts()})
    assert all(other == seen[0] for other in seen)
    return seen[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_voted_shares_divide_what_is_answered_after_and_nothing_before(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=NAMES, witnesses=("node",)) as lab:
        assert lab.chain is not None
        creator = Identity.load_or_create(lab.folder / "creator")
        everybody = {
            "governor": lab.chain.governor,
            "aggregator": lab.identity("aggregator").peer_id,
            "witnesses": (lab.identity("node").peer_id,),
            "publishers": (creator.peer_id,),
            "watch_interval_s": 0.3,
        }
        async with (
            people_of(lab) as (chain, people),
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("node", **everybody) as node,
            lab.daemon("client", role="gateway", **everybody) as client,
        ):
            daemons = (aggregator, node, client)

            async def answer(num: int) -> None:
                """So many answers of one length, recomputed by everybody."""
                expected = client.money.mirror.history.state.log.size + num
                for _ in range(num):
                    await ask(client, model="law", choosing=Choosing(temperature=0.0))
                await until(
                    lambda: all(
                        one.money.mirror.history.state.log.size == expected for one in daemons
                    ),
                    60,
                )

            await until(lambda: node.host.peer_id in {one.peer_id for one in client.peers()})
            folder = make_adapter(lab.folder / "law", "law", 5, rank=5)
            await node.push(folder, lab.folder / "creator")
            await answer(2)
            before = await earnings(daemons)

            changes = {CREATOR_SHARE: 3_000, NODE_SHARE: 5_000, LEAST_FEE: 700}
            blocks = AdapterBlocks(tmp_path / "node")
            found = await trio.to_thread.run_sync(audit_chain, chain, blocks.get, people)
            forecast = replay(found.settled(), {**DEFAULTS, **changes})
            assert {line.account: line.earned for line in forecast.lines} == before

            assert await decide(chain, people, changes) == 2
            await until(lambda: all(parameters(one)["newest_version"] == 2 for one in daemons))
            await answer(1)  # in this epoch the first version is still in force
            between = await earnings(daemons)
            assert before == {
                account: 2 * (between[account] - before[account]) for account in before
            }
            await until(lambda: all(parameters(one)["version"] == 2 for one in daemons))

            await answer(2)
            after = await earnings(daemons)
            assert {line.account: line.would_earn for line in forecast.lines} == {
                account: after[account] - between[account] for account in after
            }
            maker = Signer(creator.secret).address
            fees = sum(one.amount for one in (await client.receipts())[:2])
            assert after[maker] - between[maker] == fees * 3_000 // 10_000
            # What an exit would settle by is what the header has, to the unit.
            state = aggregator.money.mirror.history.state
            for row in node.money.till._book.of_operator(node.money.till.operator):
                index = state.find_channel(row.channel_id)
                assert index is not None
                assert tuple(state.payouts(index).rows) == row.payouts
            again = await trio.to_thread.run_sync(audit_chain, chain, blocks.get, people)
            assert {one.parameters for one in again.receipts} == {1, 2}
            # What the page shows of it is what the command recomputes.
            (proposal,) = await trio.to_thread.run_sync(people.proposals)
            told = await node.simulate(str(proposal.id))
            expected = simulate(
                again.settled(),
                changes,
                chain.network,
                last=again.posted[-1].header,
                versions=again.versions,
            )
            assert told.digest == hashlib.sha256(expected.report).hexdigest()
            assert sum(one.would_earn for one in told.accounts) == told.would_pay > 0

"""What people decide on a real chain, and what whole daemons make of it: the long form of
test_governing.py.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.testnet.deciding import carry, pass_time
from proofs.chain.client import ChainClient
from proofs.chain.governance import Governance
from proofs.hextext import from_hex
from proofs.parameters import (
    AUDIT_ONE_IN,
    COMPLETION_FLOOR,
    CREATOR_SHARE,
    DEFAULTS,
    MOST_ANSWER_TOKENS,
    PROMISE_S,
)
from tests.node.networks import Lab, ask, open_lab, until

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

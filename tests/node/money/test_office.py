"""An aggregator that breaks its promise loses its office, one that answers keeps it: whole daemons
on a real chain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from proofs.chain.client import ChainClient, open_client
from proofs.court import Part, Question
from tests.node.networks import Lab, open_lab, until
from tests.node.outsider import open_outsider

WINDOW_S = 60
QUICK: dict[str, Any] = {"watch_interval_s": 0.3}


async def test_a_promise_that_no_header_keeps_is_demanded_and_costs_the_office(
    tmp_path: Path,
) -> None:
    names = ("outsider node", "outsider client", "aggregator", "watcher")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        forgetful = {"promise_s": 1.0, "epoch_s": 3600.0}
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody | forgetful) as aggregator,
            lab.daemon("watcher", role="gateway", **everybody) as watcher,
            open_outsider(lab) as outsider,
        ):
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 10)
            await trio.to_thread.run_sync(outsider.claim_all)
            (accepted,) = await outsider.hand_over(peer_id, outsider.advance(tokens=2))
            assert watcher.money is not None
            watcher.money._promises.add(accepted.promise)  # type: ignore[union-attr]
            before = outsider.chain.token.balance_of(lab.address("watcher"))

            def is_convicted() -> bool:
                outsider.chain.rpc.call("evm_mine")  # time passes on the chain
                return watcher.telemetry.counters.get("aggregators_convicted") == 1

            await until(is_convicted, WINDOW_S)
            settlement = outsider.chain.settlement
            assert settlement.read_office().aggregator is None
            assert outsider.chain.token.balance_of(lab.address("watcher")) > before


async def test_an_honest_aggregator_answers_whatever_is_demanded(tmp_path: Path) -> None:
    names = ("outsider node", "outsider client", "aggregator", "bully")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        async with (
            lab.daemon("aggregator", role="aggregator", promise_s=1.0, **everybody) as aggregator,
            open_outsider(lab) as outsider,
        ):
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 10)
            await trio.to_thread.run_sync(outsider.claim_all)
            settlement = outsider.chain.settlement
            bully = chain_for(lab, lab.identity("bully").secret)
            court = bully.settlement.court
            fees = 3 * settlement.terms.demand_fee
            await trio.to_thread.run_sync(bully.token.allow, court.address, fees)
            (accepted,) = await outsider.hand_over(peer_id, outsider.advance(tokens=2))
            await until(lambda: settlement.find_header(1), WINDOW_S)
            posted = settlement.find_header(1)
            assert posted is not None
            questions = [
                Question(Part.CHANNEL, 0, 0),
                Question(Part.ENTRY, 0, 0),
            ]

            def demand_all() -> None:
                for question in questions:
                    court.demand(posted, question)

            await trio.to_thread.run_sync(demand_all)
            await until(
                lambda: aggregator.telemetry.counters.get("demands_answered") == len(questions),
                WINDOW_S,
            )
            for question in questions:
                assert court.find_answer(posted, question) is not None

            # A promise that is kept can be demanded, too, and long after its header is final.
            bully.rpc.call("evm_increaseTime", 30)
            bully.rpc.call("evm_mine")
            await trio.to_thread.run_sync(court.stand, accepted.promise)  # type: ignore[union-attr]
            await until(
                lambda: aggregator.telemetry.counters.get("demands_answered") == len(questions) + 1,
                WINDOW_S,
            )
            assert settlement.is_posted(posted)
            assert settlement.read_office().aggregator == lab.address("aggregator")
            bully.close()


def chain_for(lab: Lab, secret: bytes) -> ChainClient:
    assert lab.chain is not None
    return open_client(lab.chain.rpc, bytes.fromhex(lab.chain.settlement[2:]), secret)

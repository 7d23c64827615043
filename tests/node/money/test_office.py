"""An aggregator that breaks its promise loses its office: whole daemons on a real chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from tests.node.networks import open_lab, until
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

"""A clock that is ten minutes off, either way of the chain's: receipts are taken, promised and
posted in time, nobody is convicted, and the aggregator does not say all the time that it is there.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.node.networks import open_lab, passing, until
from tests.node.outsider import open_outsider

WINDOW_S = 60
EPOCHS = 3
NAMES = ("outsider node", "outsider client", "aggregator", "watcher")


@pytest.mark.parametrize("off_s", [-600, pytest.param(600, marks=pytest.mark.slow)])
async def test_an_aggregator_whose_clock_is_off_keeps_its_promises_and_its_office(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off_s: int
) -> None:
    with open_lab(tmp_path, chain_for=NAMES) as lab:
        everybody: dict[str, Any] = {
            "aggregator": lab.identity("aggregator").peer_id,
            "watch_interval_s": 0.2,
            "epoch_s": 0.2,
            "grace_s": 1.0,
        }
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + off_s)
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("watcher", role="gateway", **everybody) as watcher,
            open_outsider(lab) as outsider,
        ):
            settlement = outsider.chain.settlement
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 60)
            await trio.to_thread.run_sync(outsider.claim_all)
            assert watcher.money is not None
            for number in range(1, EPOCHS + 1):
                envelope = outsider.advance(tokens=number, cosigned=number != 2)

                async def is_promised() -> bool:
                    (taken,) = await outsider.hand_over(peer_id, envelope)  # noqa: B023
                    promise = getattr(taken, "promise", None)
                    if promise is not None:
                        watcher.money._promises.add(promise, envelope)  # type: ignore[union-attr] # noqa: B023
                        assert abs(promise.deadline - real()) < 3 * 600, "in the chain's time"
                    return promise is not None

                await until(is_promised, WINDOW_S)
                await until(lambda: settlement.read().num_receipts == number, WINDOW_S)  # noqa: B023
            header = settlement.find_header(settlement.last_epoch())
            assert header is not None

            pass_on = passing(outsider.chain.rpc)

            def is_final() -> bool:
                pass_on()
                return watcher.money.mirror.final == header  # type: ignore[union-attr]

            await until(is_final, WINDOW_S)
            sent = outsider.chain.rpc.call(
                "eth_getTransactionCount", "0x" + lab.address("aggregator").hex(), "latest"
            )
            assert int(sent, 16) <= settlement.last_epoch() + 2
            assert watcher.telemetry.counters.get("aggregators_convicted") is None
            assert settlement.read_office().aggregator == lab.address("aggregator")

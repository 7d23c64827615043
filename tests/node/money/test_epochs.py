"""Receipts become epochs that a witness signs, the chain keeps and every mirror recomputes, and
that pay once nobody can challenge them any more; over real hosts, real daemons and a real chain.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import trio

from node.daemon import NodeDaemon
from tests.node.networks import open_lab, until
from tests.node.outsider import open_outsider

WINDOW_S = 60


def described(aggregator: NodeDaemon) -> Any:
    """What its status says about aggregating."""
    assert aggregator.money is not None
    return aggregator.money.describe()["aggregator"]


async def test_a_claimed_receipt_is_promised_witnessed_posted_and_final(tmp_path: Path) -> None:
    names = ("outsider node", "outsider client", "aggregator", "witness")
    with open_lab(tmp_path, chain_for=names, witnesses=("witness",)) as lab:
        everybody = {
            "aggregator": lab.identity("aggregator").peer_id,
            "witnesses": (lab.identity("witness").peer_id,),
            "watch_interval_s": 0.5,
        }
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("witness", role="gateway", **everybody) as witness,
            open_outsider(lab) as outsider,
        ):
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 60)
            first = outsider.advance(tokens=2)
            assert await outsider.deliver(peer_id, first) == ["Rejected"]  # not claimed yet
            await trio.to_thread.run_sync(outsider.claim)
            assert await outsider.deliver(peer_id, first) == ["Accepted"]
            await until(lambda: described(aggregator)["posted"] == 1, WINDOW_S)
            assert witness.telemetry.counters["headers_attested"] == 1
            assert described(aggregator)["payout_total"] == outsider.tip.cumulative
            mirror = witness.money and witness.money.mirror
            assert mirror is not None
            await until(lambda: mirror.final is not None, WINDOW_S)
            assert mirror.final.header.payout_total == outsider.tip.cumulative


async def test_a_mirror_on_a_full_disk_judges_and_writes_down_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("outsider node", "outsider client", "aggregator")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id, "watch_interval_s": 0.5}
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("watcher", role="watcher", **everybody) as watcher,
            open_outsider(lab) as outsider,
        ):
            mirror = watcher.money and watcher.money.mirror
            assert mirror is not None
            store = mirror._published._store

            def full(*_: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(store, "put", full)
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 60)
            await trio.to_thread.run_sync(outsider.claim_all)
            first = outsider.advance(tokens=2)
            await trio.to_thread.run_sync(outsider.claim)
            assert await outsider.deliver(peer_id, first) == ["Accepted"]
            await until(lambda: "the mirror's disk" in watcher.telemetry.troubles, WINDOW_S)
            assert mirror.header is not None, "what cannot be kept is recomputed all the same"
            monkeypatch.undo()
            await until(lambda: watcher.telemetry.counters.get("epochs_mirrored") == 1, WINDOW_S)
            assert "epochs_taken_back" not in watcher.telemetry.counters
            await until(lambda: not watcher.telemetry.troubles)

"""An aggregator that steals is caught by any one watcher; money finds its way without it."""

from __future__ import annotations

from pathlib import Path

import trio

from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from proofs.chain.structs import Terms
from tests.node.networks import ask, open_lab, until
from tests.node.outsider import open_outsider
from tests.node.thief import steal

WINDOW_S = 60
TERMS = Terms(
    window=120, answer_time=6, silence=600, timelock=10, bond=1_000_000, demand_fee=10_000
)
"""Time for a batch to come on a busy machine, so that nothing needs to be demanded."""


async def test_a_header_over_an_unfunded_channel_costs_the_bond_and_pays_nobody(
    tmp_path: Path,
) -> None:
    names = ("outsider node", "outsider client", "aggregator", "watcher")
    with open_lab(tmp_path, chain_for=names, terms=TERMS) as lab:
        async with (
            lab.daemon("watcher", role="gateway", watch_interval_s=0.3) as watcher,
            open_outsider(lab) as outsider,
        ):
            await trio.to_thread.run_sync(outsider.claim_all)  # somebody's fees lie in the contract
            store = BlockStore(tmp_path / "stolen")
            serve_blocks(outsider.host, store)
            await outsider.host.connect(watcher.host.addresses[0], 60)
            before = outsider.chain.token.balance_of(lab.address("watcher"))
            posted = await trio.to_thread.run_sync(steal, lab, store, 7)
            await outsider.host.dht.provide(store.list()[0])
            await until(
                lambda: watcher.telemetry.counters.get("aggregators_convicted") == 1, WINDOW_S
            )
            log = (tmp_path / "watcher" / "log").read_text()
            assert "convicted its aggregator: Unfunded" in log
            mirror = watcher.money and watcher.money.mirror
            assert mirror is not None
            await until(lambda: mirror.history.state.epoch == 0, WINDOW_S)  # it goes back, too
            settlement = outsider.chain.settlement
            assert not settlement.is_posted(posted)
            assert settlement.read_office().aggregator is None
            assert outsider.chain.token.balance_of(lab.address("watcher")) > before


async def test_without_an_aggregator_a_channel_settles_itself(tmp_path: Path) -> None:
    names = ("volunteer", "gateway", "aggregator", "outsider node", "outsider client")
    with open_lab(tmp_path, chain_for=names) as lab:
        quick = {"watch_interval_s": 0.5}
        async with (
            lab.daemon("volunteer", **quick) as volunteer,
            lab.daemon("gateway", role="gateway", **quick) as gateway,
            open_outsider(lab) as outsider,
        ):
            await trio.to_thread.run_sync(outsider.claim_all)
            store = BlockStore(tmp_path / "stolen")
            serve_blocks(outsider.host, store)
            await outsider.host.connect(volunteer.host.addresses[0], 60)
            await trio.to_thread.run_sync(steal, lab, store, 7)
            await outsider.host.dht.provide(store.list()[0])
            settlement = outsider.chain.settlement
            await until(lambda: settlement.read_office().aggregator is None, WINDOW_S)

            before = outsider.chain.token.balance_of(lab.address("volunteer"))
            answered = await ask(gateway)
            assert answered.ended.amount > 0
            await until(lambda: volunteer.telemetry.counters.get("exits_paid") == 1, WINDOW_S)
            after = outsider.chain.token.balance_of(lab.address("volunteer"))
            assert after - before == answered.ended.amount
            assert settlement.read().total_exited == answered.ended.amount
            again = await ask(gateway)
            await until(lambda: volunteer.telemetry.counters.get("exits_paid") == 2, WINDOW_S)
            total = answered.ended.amount + again.ended.amount
            assert settlement.read().total_exited == total


async def test_a_channel_that_left_leaves_again_after_a_restart(tmp_path: Path) -> None:
    names = ("volunteer", "gateway", "aggregator", "outsider node", "outsider client")
    with open_lab(tmp_path, chain_for=names) as lab:
        quick = {"watch_interval_s": 0.5}
        async with (
            lab.daemon("gateway", role="gateway", **quick) as gateway,
            open_outsider(lab) as outsider,
        ):
            await trio.to_thread.run_sync(outsider.claim_all)
            settlement = outsider.chain.settlement
            outsider.chain.rpc.call("evm_increaseTime", settlement.terms.silence + 1)
            outsider.chain.rpc.call("evm_mine")
            total = 0
            for _ in range(2):
                async with lab.daemon("volunteer", **quick) as volunteer:
                    answered = await ask(gateway)
                    assert answered.ended.amount > 0
                    total += answered.ended.amount
                    await until(
                        lambda: volunteer.telemetry.counters.get("exits_paid") == 1, WINDOW_S
                    )
            assert settlement.read_office().aggregator is None
            assert settlement.read().total_exited == total

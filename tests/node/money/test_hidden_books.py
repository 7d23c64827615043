"""An aggregator that steals with made-up roots and gives its batch to nobody but its own witness:
one watcher demands leaf after leaf, and convicts it by its silence or by what it can't answer. Real
daemons, a real chain.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from node.daemon import NodeDaemon
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from proofs.batch import recompute
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader, Terms
from proofs.court import answer
from proofs.state import EpochState
from tests.node.networks import open_lab, until
from tests.node.outsider import open_outsider
from tests.node.thief import (
    THIEF,
    aggregators_chain,
    answer_from,
    answering,
    hide,
    make_up_books,
    post,
)

WINDOW_S = 60
TERMS = Terms(window=60, answer_time=6, silence=600, timelock=10, bond=1_000_000, demand_fee=10_000)
NAMES = ("outsider node", "outsider client", "aggregator", "watcher")


@pytest.mark.parametrize("is_talkative", [False, True])
async def test_books_that_nobody_may_see_are_demanded_and_cost_the_bond(
    tmp_path: Path, is_talkative: bool
) -> None:
    accomplice = ("accomplice",)
    with open_lab(tmp_path, chain_for=NAMES, witnesses=accomplice, terms=TERMS) as lab:
        async with (
            lab.daemon("watcher", role="gateway", watch_interval_s=0.3) as watcher,
            open_outsider(lab) as outsider,
        ):
            chain = outsider.chain
            settlement = chain.settlement
            await trio.to_thread.run_sync(outsider.claim_all)  # somebody's fees lie in the contract
            before = chain.token.balance_of(lab.address("watcher"))
            books = make_up_books(outsider)
            posted = await trio.to_thread.run_sync(hide, lab, books, "accomplice")
            assert "demands_made" not in watcher.telemetry.counters, (
                "there is time for the batch to come"
            )

            def pass_time(seconds: int) -> None:
                chain.rpc.call("evm_increaseTime", seconds)
                chain.rpc.call("evm_mine")

            def is_convicted() -> bool:
                with suppress(ContractReverted):  # it is gone
                    assert not settlement.is_final(posted)
                return watcher.telemetry.counters.get("aggregators_convicted") == 1

            with ExitStack() as stack:
                answered = None
                if is_talkative:
                    show = partial(answer_from, books)
                    answered = stack.enter_context(answering(lab, posted, show))
                pass_time(TERMS.window // 3)
                await until(lambda: watcher.telemetry.counters.get("demands_made", 0) >= 2)
                if answered is not None:
                    await until(lambda: len(answered) >= 3)
                    await until(lambda: watcher.telemetry.counters["demands_made"] >= 4)
                pass_time(TERMS.answer_time + 1)
                await until(is_convicted, WINDOW_S)

            assert not settlement.is_posted(posted)
            assert settlement.read_office().aggregator is None
            with pytest.raises(ContractReverted):
                settlement.claim(posted, books.show_account(1))
            assert chain.token.balance_of(THIEF) == 0
            paid = TERMS.demand_fee * len(answered or ())
            earned = TERMS.bond // 2 - paid
            await until(
                lambda: chain.token.balance_of(lab.address("watcher")) == before + earned, 20
            )
            mirror = watcher.money and watcher.money.mirror
            assert mirror is not None
            assert mirror.history.state.epoch == 0


async def test_a_batch_that_comes_late_ends_the_demands(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=NAMES, terms=TERMS) as lab:
        async with (
            lab.daemon("watcher", role="gateway", watch_interval_s=0.3) as watcher,
            open_outsider(lab) as outsider,
        ):
            await trio.to_thread.run_sync(outsider.claim_all)
            store = BlockStore(tmp_path / "late")
            serve_blocks(outsider.host, store)
            await outsider.host.connect(watcher.host.addresses[0], 60)
            batch, header = outsider.seal()
            with aggregators_chain(lab) as own:
                posted = await trio.to_thread.run_sync(post, own, header)
            outsider.chain.rpc.call("evm_increaseTime", TERMS.window // 3)
            outsider.chain.rpc.call("evm_mine")
            await until(lambda: watcher.telemetry.counters.get("demands_made", 0) >= 2)
            state = EpochState(outsider.network)
            state.apply(recompute(batch, state, {}))
            with answering(lab, posted, partial(answer, state)):
                await outsider.host.dht.provide(store.put(batch))
                await until_judged(watcher, posted)
            counters = watcher.telemetry.counters
            assert counters["demands_made"] < state.accounts.size + state.channels.size + 3
            assert "aggregators_convicted" not in counters
            assert outsider.chain.settlement.is_posted(posted)


async def until_judged(watcher: NodeDaemon, posted: PostedHeader) -> None:
    """Wait until a watcher's mirror stands at a header, and nothing is demanded of it any more."""
    assert watcher.money is not None
    assert watcher.money.watcher is not None
    mirror = watcher.money.mirror
    assert mirror is not None
    await until(lambda: mirror.history.state.header == posted.header)
    with trio.fail_after(60):
        await watcher.money.watcher.wait_idle()

"""`lorikeet watch --once`, a process of its own beside no daemon, convicts a thief and says so by
its exit status.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import trio

from node.config import CONFIG_FILE, dump_config
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from proofs.chain.structs import Terms
from tests.node.forked import forked_python
from tests.node.networks import Lab, open_lab
from tests.node.outsider import Outsider, open_outsider
from tests.node.thief import aggregators_chain, hide, make_up_books, post, steal

TERMS = Terms(
    window=120, answer_time=6, silence=600, timelock=10, bond=1_000_000, demand_fee=10_000
)
NAMES = ("outsider node", "outsider client", "aggregator", "watcher")


async def watch_once(lab: Lab, outsider: Outsider) -> subprocess.CompletedProcess[bytes]:
    """Run it in a home of its own; the outsider stands where the aggregator should."""
    config = lab.config(
        "watcher",
        role="watcher",
        watch_interval_s=0.3,
        bootstrap=tuple(outsider.host.addresses),
        aggregator=outsider.host.peer_id,
    )
    (config.home / CONFIG_FILE).write_text(dump_config(config))
    with trio.fail_after(100):
        return await trio.run_process(
            [forked_python(), "-m", "node", "watch", "--once", "--json", "--home", config.home],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


def words_of(done: subprocess.CompletedProcess[bytes]) -> list[tuple[int, str]]:
    verdicts = map(json.loads, done.stdout.decode().splitlines())
    return [(verdict["epoch"], verdict["word"]) for verdict in verdicts]


async def test_a_theft_whose_batch_is_there_is_convicted_by_the_command_alone(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=NAMES, terms=TERMS) as lab:
        async with open_outsider(lab) as outsider:
            await trio.to_thread.run_sync(outsider.claim_all)
            store = BlockStore(tmp_path / "stolen")
            serve_blocks(outsider.host, store)
            posted = await trio.to_thread.run_sync(steal, lab, store, 7)
            before = outsider.chain.token.balance_of(lab.address("watcher"))
            done = await watch_once(lab, outsider)
            assert done.returncode == 1, done.stderr.decode()
            assert words_of(done) == [(1, "contradicted"), (1, "convicted")]
            settlement = outsider.chain.settlement
            assert not settlement.is_posted(posted)
            earned = outsider.chain.token.balance_of(lab.address("watcher")) - before
            assert earned == TERMS.bond // 2
            again = await watch_once(lab, outsider)
            assert (again.returncode, words_of(again)) == (0, []), again.stderr.decode()


async def test_a_theft_whose_batch_is_hidden_is_convicted_by_the_command_alone(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=NAMES, terms=TERMS) as lab:
        async with open_outsider(lab) as outsider:
            await trio.to_thread.run_sync(outsider.claim_all)
            posted = await trio.to_thread.run_sync(hide, lab, make_up_books(outsider))
            chain = outsider.chain
            chain.rpc.call("evm_increaseTime", TERMS.window // 3)
            chain.rpc.call("evm_mine")

            async def pass_time() -> None:
                while True:  # a chain on which others are at work
                    await trio.sleep(1)
                    await trio.to_thread.run_sync(chain.rpc.call, "evm_mine")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pass_time)
                done = await watch_once(lab, outsider)
                nursery.cancel_scope.cancel()
            assert done.returncode == 1, done.stderr.decode()
            assert words_of(done) == [(1, "hidden"), (1, "convicted")]
            assert not chain.settlement.is_posted(posted)
            assert chain.settlement.read_office().aggregator is None


async def test_an_honest_header_is_said_to_hold(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=NAMES, terms=TERMS) as lab:
        async with open_outsider(lab) as outsider:
            await trio.to_thread.run_sync(outsider.claim_all)
            store = BlockStore(tmp_path / "published")
            serve_blocks(outsider.host, store)
            batch, header = outsider.seal()
            store.put(batch)
            with aggregators_chain(lab) as own:
                posted = await trio.to_thread.run_sync(post, own, header)
            done = await watch_once(lab, outsider)
            assert (done.returncode, words_of(done)) == (0, [(1, "holds")]), done.stderr.decode()
            assert outsider.chain.settlement.is_posted(posted)

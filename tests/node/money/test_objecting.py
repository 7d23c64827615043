"""Whoever settles a channel as if no header had it is shown its leaf by any daemon that watches,
and paid nothing twice. Real daemons, a real chain.
"""

from __future__ import annotations

from pathlib import Path

import trio

from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from proofs.chain.structs import Terms
from proofs.court import ExitRequest, build_exit
from proofs.envelope import open_envelope
from proofs.receipt import SignedReceipt
from proofs.state import EpochState
from tests.node.networks import open_lab, until
from tests.node.outsider import Outsider, open_outsider
from tests.node.thief import aggregators_chain, post

WINDOW_S = 60
TERMS = Terms(window=60, answer_time=6, silence=600, timelock=10, bond=1_000_000, demand_fee=10_000)
NAMES = ("outsider node", "outsider client", "aggregator", "watcher")


async def test_an_exit_that_hides_what_a_header_has_is_cancelled_by_a_watcher(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=NAMES, terms=TERMS) as lab:
        async with (
            lab.daemon("watcher", role="gateway", watch_interval_s=0.3) as watcher,
            open_outsider(lab) as outsider,
        ):
            settlement = outsider.node_chain.settlement
            await trio.to_thread.run_sync(outsider.claim_all)
            batch, header = outsider.seal()
            outsider.advance()
            store = BlockStore(tmp_path / "blocks")
            serve_blocks(outsider.host, store)
            await outsider.host.connect(watcher.host.addresses[0], 60)
            await outsider.host.dht.provide(store.put(batch))
            with aggregators_chain(lab) as own:
                posted = await trio.to_thread.run_sync(post, own, header)
            mirror = watcher.money and watcher.money.mirror
            assert mirror is not None
            await until(lambda: mirror.history.state.header == header, WINDOW_S)
            outsider.chain.rpc.call("evm_increaseTime", TERMS.silence + 1)
            outsider.chain.rpc.call("evm_mine")

            signed = open_envelope(outsider.advance(), outsider.network).receipt.signed
            hiding = exit_by(outsider, signed, EpochState(outsider.network))
            await trio.to_thread.run_sync(settlement.exit, hiding, posted)
            channel = hiding.receipt.channel_id
            await until(lambda: watcher.telemetry.counters.get("exits_cancelled") == 1, WINDOW_S)
            assert settlement.find_pending_exit(channel) is None
            assert settlement.find_exit(channel) is None

            # What goes on from the leaf is left alone.
            showing = exit_by(outsider, signed, mirror.history.state)
            await trio.to_thread.run_sync(settlement.exit, showing, posted)
            found = settlement.find_exit(channel)
            assert found is not None
            assert found.sequence == 2


def exit_by(outsider: Outsider, signed: SignedReceipt, state: EpochState) -> ExitRequest:
    """An exit by the channel's last receipt, that goes on from this state."""
    return build_exit(state, outsider.config, signed, outsider.tip.payouts)

"""The chain takes back what whole daemons acted on, deeper than they were told it could: the
aggregator unseals what lost its claim and loses no bond, and mirrors follow.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import trio

from node.daemon import NodeDaemon
from p2p.errors import P2pError
from proofs.chain.client import ChainClient
from proofs.voucher import operator_salt
from tests.node.networks import open_lab, until
from tests.node.outsider import Outsider, open_outsider

WINDOW_S = 60
DEPTHS = (1, 12, 20)  # at least so many blocks
NAMES = ("outsider node", "outsider client", "aggregator", "watcher")


def mine(chain: ChainClient, num_blocks: int) -> None:
    for _ in range(num_blocks):
        chain.rpc.call("evm_mine")


def others_claim(outsider: Outsider) -> None:
    """Somebody else's fees lie in the contract, so that the sum of all claims says nothing about
    one channel's.
    """
    salt = operator_salt(outsider.node.address, b"others".rjust(12, b"\0"))
    config = msgspec.structs.replace(outsider.config, salt=salt)
    outsider.chain.channels.deposit(config, 1_000_000)
    replace(outsider, config=config).claim_all()


def counted(daemon: NodeDaemon, name: str) -> int:
    return daemon.telemetry.counters.get(name, 0)


def epoch_at(daemon: NodeDaemon) -> int:
    """Where its mirror stands."""
    assert daemon.money is not None
    assert daemon.money.mirror is not None
    header = daemon.money.mirror.header
    return header.epoch if header else 0


async def test_a_claim_and_its_header_that_are_taken_back_cost_nobody_anything(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=NAMES) as lab:
        everybody: dict[str, Any] = {
            "aggregator": lab.identity("aggregator").peer_id,
            "watch_interval_s": 0.2,
            "epoch_s": 0.3,
        }
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("watcher", role="gateway", **everybody) as watcher,
            open_outsider(lab) as outsider,
        ):
            chain = outsider.chain
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 60)
            await trio.to_thread.run_sync(others_claim, outsider)
            for number, depth in enumerate(DEPTHS, 1):
                snapshot = chain.rpc.call("evm_snapshot")
                taken = outsider.advance(tokens=number)
                await trio.to_thread.run_sync(outsider.claim)
                assert await outsider.deliver(peer_id, taken) == ["Accepted"]
                await until(lambda: epoch_at(watcher) == number, WINDOW_S)  # noqa: B023
                mine(chain, max(depth - 2, 0))

                assert chain.rpc.call("evm_revert", snapshot) is True
                mine(chain, depth + 3)  # another branch, longer, without the claim
                await until(lambda: counted(aggregator, "epochs_unsealed") == number, WINDOW_S)  # noqa: B023
                await until(lambda: epoch_at(watcher) == number - 1, WINDOW_S)  # noqa: B023
                assert chain.settlement.last_epoch() == number - 1

                await trio.to_thread.run_sync(outsider.claim)
                await until(lambda: epoch_at(watcher) == number, WINDOW_S)  # noqa: B023
                posted = chain.settlement.find_header(number)
                assert posted is not None
                assert posted.header.payout_total == outsider.tip.cumulative
            assert counted(watcher, "epochs_taken_back") == len(DEPTHS)
            assert counted(watcher, "aggregators_convicted") == 0
            assert chain.settlement.read_office().aggregator == lab.address("aggregator")
            chain.rpc.call("evm_increaseTime", chain.settlement.terms.window)
            mine(chain, 1)
            mirror = watcher.money and watcher.money.mirror
            assert mirror is not None
            await until(lambda: mirror.final == posted, WINDOW_S)


async def test_an_old_copy_of_an_aggregators_books_gives_way_to_the_chain(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=NAMES) as lab:
        home = lab.folder / "aggregator"
        old = lab.folder / "old.sqlite"
        lab.identity("aggregator")
        async with open_outsider(lab) as outsider:
            settlement = outsider.chain.settlement
            await trio.to_thread.run_sync(outsider.claim_all)
            receipts = [outsider.advance(tokens=number) for number in (1, 2, 3)]
            snapshot = outsider.chain.rpc.call("evm_snapshot")

            async def aggregate(count: int, *envelopes: bytes) -> NodeDaemon:
                lab.bootstrap = ()
                async with lab.daemon("aggregator", role="aggregator") as daemon:

                    async def is_taken() -> bool:  # not before it has what the chain has
                        with suppress(P2pError):  # its former life's connection may just end
                            peer_id = await outsider.host.connect(daemon.host.addresses[0], 60)
                            taken = await outsider.deliver(peer_id, *envelopes)
                            return taken == ["Accepted"] * len(envelopes)
                        return False

                    await until(is_taken, WINDOW_S)
                    await until(lambda: settlement.read().num_receipts == count, WINDOW_S)
                    return daemon

            await aggregate(1, receipts[0])
            (home / "ledger.sqlite").rename(old)
            outsider.chain.rpc.call("evm_revert", snapshot)
            await aggregate(2, *receipts[:2])
            old.rename(home / "ledger.sqlite")
            daemon = await aggregate(3, receipts[2])
            assert counted(daemon, "epochs_unsealed") == counted(daemon, "epochs_adopted") == 1
            assert settlement.last_epoch() == 2

"""Whoever comes late gets every batch without the aggregator: from a mirror, which any node finds
for a client that walks nowhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from node.config import CONFIG_FILE, dump_config
from node.daemon import NodeDaemon
from node.money import mirror, published
from node.money.published import archive_digest
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from p2p.lookup.kinds import PROVIDERS
from p2p.lookup.messages import (
    PROTOCOL,
    Found,
    Lookup,
    decode_answer,
    decode_provider,
    encode,
)
from tests.node.forked import forked_python
from tests.node.networks import Lab, open_lab, until
from tests.node.outsider import Outsider, open_outsider

NAMES = ("outsider node", "outsider client", "aggregator", "watcher")
QUICK: dict[str, Any] = {"watch_interval_s": 0.3}
WINDOW_S = 60
Ask = Callable[[bytes], Awaitable[list[str]]]


@asynccontextmanager
async def open_visitor(daemon: NodeDaemon) -> AsyncIterator[Host]:
    """A client that takes no part in the DHT, connected to one node."""
    alone = NetworkConfig(listen=(), dht_server=False, relay=None, port_mapping=False)
    async with open_host(Identity.generate(), alone) as host:
        await host.connect(daemon.host.addresses[0], 60)
        yield host


async def look_up(visitor: Host, helper: NodeDaemon, digest: bytes) -> list[str]:
    """Ask a node who has a digest."""
    async with visitor.open_stream(helper.host.peer_id, PROTOCOL, 60) as stream:
        await stream.send(encode(Lookup(PROVIDERS, digest, max_age_s=0)), 60)
        answer = decode_answer(await stream.receive(60))
    assert isinstance(answer, Found)
    return [decode_provider(one).peer_id for one in answer.found]


async def names(ask: Ask, digest: bytes, peer_id: str) -> bool:
    """Whether this peer alone is named for a digest."""
    return await ask(digest) == [peer_id]


async def seal(outsider: Outsider, aggregator: NodeDaemon, watcher: NodeDaemon, epoch: int) -> None:
    """Have one more receipt sealed, and wait until the watcher has recomputed it."""
    envelope = outsider.advance(tokens=1)
    await trio.to_thread.run_sync(outsider.claim)
    taken = await outsider.deliver(aggregator.host.peer_id, envelope)
    assert taken == ["Accepted"]
    await until(lambda: epoch_of(watcher) == epoch, WINDOW_S)


def epoch_of(daemon: NodeDaemon) -> int:
    settlement = daemon.money.describe()
    return int(str(settlement["epoch"]))


async def verify(lab: Lab, helper: NodeDaemon) -> list[int]:
    """`lorikeet verify` of somebody who knows one node and the chain: the epochs that follow."""
    home = lab.folder / "stranger"
    home.mkdir(exist_ok=True)
    config = lab.config(
        "stranger",
        bootstrap=helper.host.addresses,
        aggregator=lab.identity("aggregator").peer_id,
    )
    (home / CONFIG_FILE).write_text(dump_config(config))
    command = [forked_python(), "-m", "node", "verify", "--from", "p2p", "--home", str(home)]
    with trio.fail_after(WINDOW_S):
        done = await trio.run_process(
            [*command, "--json"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=dict(os.environ),
        )
    assert done.returncode == 0, done.stderr.decode()
    return [row["epoch"] for row in json.loads(done.stdout)]


@pytest.mark.timeout(600)
async def test_batches_are_had_from_a_mirror_when_the_aggregator_is_gone_and_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "CHECKPOINT_RECEIPTS", 1)  # a restart recomputes next to nothing
    with open_lab(tmp_path, chain_for=NAMES) as lab:
        assert lab.chain is not None
        everybody = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        digests: list[bytes] = []
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            lab.daemon("watcher", role="watcher", **everybody) as watcher,
            open_outsider(lab) as outsider,
        ):
            await outsider.host.connect(aggregator.host.addresses[0], 60)
            for epoch in (1, 2):
                await seal(outsider, aggregator, watcher, epoch)
                assert watcher.money.mirror is not None
                header = watcher.money.mirror.header
                assert header is not None
                digests.append(header.batch_digest)
        archive = archive_digest(bytes.fromhex(lab.chain.settlement.removeprefix("0x")))
        for max_provided in (published.MAX_PROVIDED, 0):  # by their digests, by the archive alone
            monkeypatch.setattr(published, "MAX_PROVIDED", max_provided)
            lab.bootstrap = ()
            async with (
                lab.daemon(f"helper {max_provided}", role="bootstrap") as helper,
                lab.daemon("watcher", role="watcher", **everybody) as watcher,
                open_visitor(helper) as visitor,
            ):
                ask = partial(look_up, visitor, helper)
                for digest in (*(digests if max_provided else ()), archive):
                    await until(partial(names, ask, digest, watcher.host.peer_id))
                if not max_provided:
                    assert [await ask(digest) for digest in digests] == [[], []]
                assert await verify(lab, helper) == [1, 2]

"""Attacks of clients and nodes on whole daemons over a real chain, that no other file plays: what
each does is in docs/protocols/settlement.md, "Attacks and their tests".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from node.errors import NodeError, NodeRefused
from node.money.purse import Purse
from node.wire import infer
from node.wire.channels import ChannelRow
from node.wire.receipts import Accepted, Rejected
from p2p.cid import Cid
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from p2p.streams import FrameStream
from proofs.voucher import channel_id
from tests.node.networks import Lab, ask, open_lab, until
from tests.node.outsider import NETWORK, open_outsider
from tests.proofs import scene

WINDOW_S = 60


async def test_a_client_that_could_refund_itself_at_once_is_served_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Purse._new_row

    def name_myself(self: Purse, operator: bytes, number: int) -> ChannelRow:
        row = real(self, operator, number)
        config = msgspec.structs.replace(row.config, receiver_authorizer=self._notary.address)
        return ChannelRow(channel_id(config, self._notary.network), operator, config)

    with open_lab(tmp_path, chain_for=("volunteer", "thief")) as lab:
        async with (
            lab.daemon("volunteer") as volunteer,
            lab.daemon("thief", role="gateway") as thief,
        ):
            with monkeypatch.context() as patch:
                patch.setattr(Purse, "_new_row", name_myself)
                with pytest.raises(NodeRefused, match="refund"):
                    await ask(thief, node=volunteer.host.peer_id)
            assert "tokens_served" not in volunteer.telemetry.counters
            assert await volunteer.receipts() == []


async def test_peers_that_only_announce_the_base_lock_no_money(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("gateway",)) as lab:
        async with lab.daemon("gateway", role="gateway") as gateway:
            assert gateway.money is not None
            assert gateway.money._connection is not None
            token = gateway.money._connection.chain.token
            before = token.balance_of(lab.address("gateway"))
            base = bytes.fromhex((await gateway.status()).base.split()[1])
            async with (
                announcer(lab, base) as asked,
                announcer(lab, base) as other,
            ):
                with pytest.raises(NodeError):
                    await ask(gateway)
                assert asked
                assert other
            assert token.balance_of(lab.address("gateway")) == before
            assert not any(row.balance for row in await gateway.channels())


@asynccontextmanager
async def announcer(lab: Lab, base: bytes) -> AsyncIterator[list[str]]:
    """A host that says it serves the base, reads what it is asked, and leaves; who asked it."""
    asked: list[str] = []

    async def leave(stream: FrameStream) -> None:
        await stream.receive(60)
        asked.append(stream.remote)

    listen = NetworkConfig(
        listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=lab.bootstrap, network=NETWORK
    )
    async with open_host(Identity.generate(), listen) as host:
        host.serve(infer.PROTOCOL, leave, streams_per_peer=8)
        await until(lambda: is_provided(host, base))
        yield asked


async def is_provided(host: Host, base: bytes) -> bool:
    await host.dht.provide(Cid(base))
    return bool(host.peers())


async def test_receipts_for_what_never_was_find_no_aggregator(tmp_path: Path) -> None:
    names = ("outsider node", "outsider client", "aggregator")
    with open_lab(tmp_path, chain_for=names) as lab:
        everybody: dict[str, Any] = {"aggregator": lab.identity("aggregator").peer_id}
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
            open_outsider(lab) as outsider,
        ):
            peer_id = await outsider.host.connect(aggregator.host.addresses[0], 60)
            await trio.to_thread.run_sync(outsider.claim_all)
            lies = [
                outsider.envelope(adapter=scene.ADAPTER),  # nobody has its manifest
                outsider.envelope(payouts=b"\x07" * 32),  # divided otherwise than it says
            ]
            refused = await outsider.hand_over(peer_id, *lies)
            reasons = [one.reason for one in refused if isinstance(one, Rejected)]
            named = [reason.partition(":")[0] for reason in reasons]
            assert named == ["manifest", "payouts"], reasons

            # Whoever signs the same body otherwise robs nobody of the promise.
            alone = outsider.envelope(tokens=2, cosigned=False)
            both = outsider.advance(tokens=2)
            (first,) = await outsider.hand_over(peer_id, both)
            (second,) = await outsider.hand_over(peer_id, alone)
            assert isinstance(first, Accepted)
            assert first == second
            assert aggregator.money is not None
            mirror = aggregator.money.mirror
            assert mirror is not None
            await until(lambda: mirror.history.state.log.size == 1, WINDOW_S)
            assert mirror.header is not None
            assert mirror.header.payout_total == outsider.tip.cumulative

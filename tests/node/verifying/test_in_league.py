"""Auditors that lie, and an auditor in league with a node, among real daemons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from node.daemon import NodeDaemon
from p2p.identity import public_key_of
from tests.node.networks import Answered, until

from .test_among_daemons import Net, open_net, weight_of

HEARD_S = 5.0
SELDOM = 1_000_000
"""One answer in so many is drawn by lot: none here, so what is replayed was watched."""


def words(here: NodeDaemon, auditor: NodeDaemon) -> set[str]:
    """What an auditor is known here to have said."""
    key = public_key_of(auditor.host.peer_id).hex()
    return {one.outcome for one in here.attestations() if one.auditor == key}


async def attest(
    net: Net, auditor: NodeDaemon, of: NodeDaemon, hearers: Sequence[NodeDaemon]
) -> bytes:
    """Have an auditor buy an answer, replay it and tell the others; its word, with question and
    answer. A message may be lost where the network is young: then once more.
    """
    with trio.fail_after(60):
        while True:
            bought = await net.buy(auditor, of)
            with trio.move_on_after(HEARD_S):
                await until(lambda: all(words(one, auditor) for one in hearers))
                return await opened(auditor, bought)


async def opened(auditor: NodeDaemon, bought: Answered) -> bytes:
    assert bought.ended.receipt is not None
    told = await auditor.verify_answer(bought.ended.receipt, opened=True)
    return bytes.fromhex(told.attestation)


async def test_liars_take_no_honest_nodes_weight_and_a_league_keeps_no_cheats(
    tmp_path: Path,
) -> None:
    async with (
        open_net(tmp_path, "slander:a", "slander:b", "praise", "bare") as net,
        net.client(verify_one_in=SELDOM) as client,
        net.lab.daemon("gateway", role="gateway") as gateway,
    ):
        liars = [net.cheats["slander:a"], net.cheats["slander:b"]]
        friend, bare = net.cheats["praise"], net.cheats["bare"]
        hearers = (client, gateway)
        for here in hearers:
            await until(lambda here=here: len(here.peers()) >= 5)
        lies = [await attest(net, one, net.honest, hearers) for one in liars]
        praise = await attest(net, friend, bare, hearers)
        for here in hearers:
            assert [words(here, one) for one in liars] == [{"differs"}] * 2
            assert words(here, friend) == {"agrees"}
            assert weight_of(here, net.honest) == weight_of(here, bare) == 1.0

        # What strangers say has the client look for itself, with the engine that it has.
        await net.buy(client, net.honest)
        await until(lambda: client.telemetry.counters.get("answers_replayed") == 1)
        assert weight_of(client, net.honest) == 1.0

        # What they show is recomputed, and speaks against them.
        for lie in lies:
            told = await client.recompute(lie)
            assert (told.attested, told.verdict) == ("differs", "agrees"), told.reason
        told = await client.recompute(praise)
        assert (told.attested, told.verdict) == ("agrees", "differs"), told.reason
        assert not any(words(client, one) for one in (*liars, friend))
        assert weight_of(client, net.honest) == 1.0
        assert weight_of(client, bare) < 0.01

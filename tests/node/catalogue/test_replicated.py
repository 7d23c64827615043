"""An adapter that several clients ask for and one node holds is held by others after a while, and
survives that node.
"""

from __future__ import annotations

from pathlib import Path

import trio

from node.daemon import NodeDaemon
from p2p.cid import Cid
from tests.node.networks import Answered, ask, open_lab, until
from tests.node.tiny import make_adapter


async def test_what_is_wanted_and_thinly_held_survives_its_holder(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        known = {"publishers": (lab.identity("holder").peer_id,)}
        async with (
            lab.daemon("bootstrap", role="bootstrap"),
            lab.daemon("taker", fetch_ahead_s=0.4, **known) as taker,
            lab.daemon("idle", fetch_ahead_s=0.0, **known) as idle,
            lab.daemon("one", role="gateway", **known) as one,
            lab.daemon("two", role="gateway", **known) as two,
        ):
            for client in (one, two):
                for node in (taker, idle):
                    await client.host.connect(node.host.addresses[0], 60)
            async with lab.daemon("holder", **known) as holder:
                info = await holder.push(make_adapter(tmp_path / "law", "law", 5))
                (published,) = holder.held()
                assert (published.name, published.why) == ("law", "published")
                await until(lambda: is_provided(one, info.cid, holder))
                assert await asked_by(one) == holder.host.peer_id
                await trio.sleep(2.5)
                assert taker.held() == [], "one client alone brings nothing anywhere"
                text = (await asked(two)).text
                await until(taker.held)
                assert idle.held() == [], "it was told not to"
                (ahead,) = taker.held()
                assert (ahead.cid, ahead.why) == (info.cid, "ahead")
                await until(lambda: is_provided(one, info.cid, taker))
            again = await asked(one)
            assert again.text == text
            # the one that holds it, or one that got it from there
            assert again.started.served_by in {taker.host.peer_id, idle.host.peer_id}
            same = await asked(two, node=taker.host.peer_id)
            assert same.text == text
            (guest,) = taker.held()
            assert guest.why == "asked"
            assert guest.used_at is not None
            await taker.pull("law")
            (pulled,) = taker.held()
            assert pulled.why == "pulled"


async def asked(client: NodeDaemon, node: str | None = None) -> Answered:
    return await ask(client, model="law", seed=7, node=node)


async def asked_by(client: NodeDaemon) -> str:
    return (await asked(client)).started.served_by


async def is_provided(client: NodeDaemon, cid: str, node: NodeDaemon) -> bool:
    found = await client.host.dht.find_providers(Cid.parse(cid))
    return node.host.peer_id in {each.peer_id for each in found}

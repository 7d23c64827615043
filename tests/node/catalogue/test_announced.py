"""What a connected peer announced comes from that peer, without a look-up; where it has nothing to
give, from whoever the network names.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
import trio

from node.catalogue import fetching
from node.daemon import NodeDaemon
from p2p.cid import Cid
from p2p.errors import PeerTimeout
from tests.node.networks import open_lab, until
from tests.node.tiny import make_adapter


async def ask_nobody(cid: Cid) -> NoReturn:
    raise PeerTimeout(f"{cid} was looked up")


async def test_what_was_announced_needs_no_look_up_and_a_liar_costs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "GUESS_DEADLINE_S", 1.0)
    with open_lab(tmp_path) as lab:
        async with (
            lab.daemon("holder", role="gateway") as holder,
            lab.daemon("liar", role="gateway") as liar,
            lab.daemon("node", role="gateway") as node,
        ):
            law = Cid.parse((await holder.push(make_adapter(tmp_path / "law", "law", 5))).cid)
            verse = Cid.parse((await holder.push(make_adapter(tmp_path / "verse", "v", 6))).cid)
            await until(lambda: heard(node, law) and heard(node, verse), 60)
            assert node._catalogue is not None
            fetcher = node._catalogue.fetcher
            with monkeypatch.context() as patched:
                patched.setattr(fetcher, "find_providers", ask_nobody)
                report = await node.pull(str(law))
            assert report.lookup_ms < 100
            assert report.blocks_by_peer.keys() == {holder.host.peer_id}
            assert node._catalogue.holdings.find(law) is not None
            # whoever fetches from here gets the manifest, too
            assert (await node.block(law.digest.hex()))[:1]

            await node.host.connect(liar.host.addresses[0], 60)
            entry = node._catalogue.known._entries[verse]
            object.__setattr__(entry, "announcer", liar.host.peer_id)
            with trio.fail_after(60):
                report = await node.pull(str(verse))
            assert report.blocks_by_peer.keys() == {holder.host.peer_id}


def heard(node: NodeDaemon, cid: Cid) -> bool:
    assert node._catalogue is not None
    told = node._catalogue.known.announced(cid)
    return told is not None and node.host.is_connected(told[1])

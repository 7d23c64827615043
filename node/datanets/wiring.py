"""Constructs a daemon's part in datanets and starts its tasks. Decides nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio

from p2p.blocks.rate import Rate
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.host import Host
from p2p.identity import Identity
from proofs.signing import Signer

from ..catalogue.announcements import Announcer
from ..catalogue.book import NameBook
from ..telemetry import Telemetry
from ..wire import datanet as wire
from .desk import STREAMS_PER_PEER, Desk
from .dropping import Drops
from .following import Follower
from .ground import open_all
from .heads import Heads
from .part import Adapters
from .remote import Remote
from .service import DatanetService
from .shelf import Shelf


async def open_datanets(
    identity: Identity,
    pay_to: bytes,
    host: Host,
    store: BlockStore,
    telemetry: Telemetry,
    *,
    folder: Path,
    download: Rate,
    adapters: Adapters,
    nursery: trio.Nursery,
) -> DatanetService:
    """Open what lies in a folder, serve it, and follow it in the nursery."""
    held = await trio.to_thread.run_sync(open_all, folder, store, telemetry.log)
    remote = Remote(host, telemetry, download)
    book = NameBook(folder / "heads", telemetry.log)
    announcer = Announcer(host.dht, host.gossip, telemetry.log)
    heads = Heads(identity, host, remote, book, announcer=announcer, telemetry=telemetry)
    desk = Desk(
        Signer(identity.secret),
        held,
        remote,
        telemetry,
        read_back=heads.read_back,
        on_placed=heads.moved,
    )
    shelf = Shelf(
        identity,
        host,
        store,
        telemetry,
        folder=folder,
        held=held,
        remote=remote,
        desk=desk,
        heads=heads,
    )
    host.serve(wire.PROTOCOL, desk.serve, streams_per_peer=STREAMS_PER_PEER)
    for datanet in held:
        host.dht.provide_soon(Cid(datanet))
    nursery.start_soon(partial(heads.run, held))
    nursery.start_soon(Follower(shelf, heads, held, telemetry).run)
    return DatanetService(shelf, pay_to, adapters, Drops(folder.parent / "dropped"))

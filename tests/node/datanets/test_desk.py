"""The stream protocol between two real hosts: what a stranger may ask, and what a liar may not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from node.datanets.desk import STREAMS_PER_PEER, SUBMITS_PER_MINUTE, Desk
from node.datanets.ground import Held
from node.datanets.remote import Remote
from node.datanets.store import MAX_DRAFTS
from node.telemetry import Telemetry
from node.wire import datanet as wire
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from p2p.errors import P2pError
from p2p.host import Host
from p2p.peers import PeerAddress
from proofs.datanet.entries import (
    Contribution,
    digest_of,
    parse_entry,
    parse_registration,
)
from proofs.datanet.log import register
from proofs.signing import Signer
from tests.p2p.helpers import open_hosts
from tests.proofs.datanets import World, document
from tests.proofs.scene import signer

TEXT = b"one whole text of ann's"


@dataclass
class Scene:
    """A sequencer's desk, and somebody who asks."""

    world: World
    held: Held
    desk: Desk
    stranger: Host
    remote: Remote
    peer: PeerAddress
    store: BlockStore
    """The stranger's blocks."""
    placed: list[Held]

    async def ask(self, message: wire.Ask) -> wire.Answer:
        return await self.remote.ask(self.peer, message)

    async def submit(self, entry: bytes) -> wire.Answer:
        return await self.ask(wire.Submit(self.held.datanet, entry))


async def nothing_newer(held: Held) -> None:
    """Nobody has more of the log than the desk."""


@asynccontextmanager
async def scene(folder: Path, **charter: Any) -> AsyncIterator[Scene]:
    world = World(**charter)
    world.join("ann", "ben")
    telemetry = Telemetry(folder / "log")
    async with open_hosts(2) as (server, stranger):
        held = Held.create(folder / "held", BlockStore(folder / "blocks"), world.rows[0])
        for row in world.rows[1:]:
            await held.append(row)
        placed: list[Held] = []
        desk = Desk(
            signer("owner"),
            {held.datanet: held},
            Remote(server, telemetry),
            telemetry,
            read_back=nothing_newer,
            on_placed=placed.append,
            clock=lambda: float(world.now + 60),
        )
        server.serve(wire.PROTOCOL, desk.serve, streams_per_peer=STREAMS_PER_PEER)
        store = BlockStore(folder / "stranger")
        serve_blocks(stranger, store)
        peer = PeerAddress(server.peer_id, server.addresses)
        await stranger.connect_to(peer, 60)
        remote = Remote(stranger, telemetry)
        yield Scene(world, held, desk, stranger, remote, peer=peer, store=store, placed=placed)
    telemetry.close()


async def test_a_stranger_reads_the_log_and_gives_a_text_its_place(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        head = await here.ask(wire.AskHead(here.held.datanet))
        assert head == wire.Head(here.world.rows[-1][0], [])
        rows = await here.ask(wire.AskEntries(here.held.datanet, 1, 64))
        assert rows == wire.Entries(here.world.rows[1:])
        assert await here.ask(wire.AskEntries(here.held.datanet, 9, 1)) == wire.Entries([])
        unknown = await here.ask(wire.AskHead(bytes(32)))
        assert isinstance(unknown, wire.Refused)
        assert (unknown.code, bool(unknown.mend)) == ("unknown", True)

        claim = here.world.claiming("ann", [document(TEXT.decode())])
        first, again = await here.submit(claim), await here.submit(claim)
        assert isinstance(first, wire.Registered)
        assert first == again  # the same place, however often it is said
        assert here.placed
        row = (first.registration, claim)
        here.world.rows.append(row)

        # no place before the text is on the sequencer's disk
        said: dict[str, Any] = {"blocks": [(digest_of(TEXT), len(TEXT))]}
        listed = [document(TEXT.decode())]
        entry = here.world.giving("ann", digest_of(claim), listed, **said)
        refused = await here.submit(entry)
        assert isinstance(refused, wire.Refused)
        assert refused.code == "text"
        here.store.put(TEXT)
        here.store.put(b"report")
        taken = await here.submit(entry)
        assert isinstance(taken, wire.Registered)
        assert here.held.texts.read(digest_of(entry)) == TEXT


async def test_texts_that_are_not_what_was_signed_get_no_place(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        listed = [document("what ann had signed")]
        claim = here.world.claiming("ann", listed)
        await here.submit(claim)
        other = b"what ann then gave.".ljust(listed[0].size, b".")[: listed[0].size]
        here.store.put(other)
        here.store.put(b"report")
        said: dict[str, Any] = {"blocks": [(digest_of(other), len(other))]}
        entry = here.world.giving("ann", digest_of(claim), listed, **said)
        refused = await here.submit(entry)
        assert isinstance(refused, wire.Refused)
        assert (refused.code, refused.document) == ("documents", 1)
        assert not here.held.texts.has(digest_of(entry))


async def test_what_the_rules_forbid_is_refused_with_a_mend(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        before = here.held.state.seq
        for entry, code in (
            (here.world.claiming("eve", [document("a b c")]), "joined"),
            (b"", "schema"),
            (b"\x91" * 60_000, "schema"),
            (here.world.rows[1][1][:-1], "schema"),
        ):
            refused = await here.submit(entry)
            assert isinstance(refused, wire.Refused)
            assert (refused.code, bool(refused.mend)) == (code, True)
        assert here.held.state.seq == before


async def test_one_key_submits_sixteen_times_a_minute(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        refused: wire.Answer | None = None
        for number in range(60):  # on a slow machine some more fit into the time that it takes
            refused = await here.submit(here.world.claiming("ann", [document(f"text {number} x")]))
            if isinstance(refused, wire.Refused):
                break
        assert number >= SUBMITS_PER_MINUTE
        assert isinstance(refused, wire.Refused)
        assert refused.code == "rate"
        other = await here.submit(here.world.claiming("ben", [document("ben's own text")]))
        assert isinstance(other, wire.Registered)  # others are unhindered


async def test_what_is_no_message_ends_the_stream_and_no_more(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        for junk in (b"", b"\xc0", b"\x93\xa7AskHead\xc0\xc0", wire.encode(wire.Entries([]))):
            with pytest.raises(P2pError):
                async with here.stranger.open_stream(here.peer.peer_id, wire.PROTOCOL, 60) as one:
                    await one.send(junk, 30)
                    await one.receive(30)
        with pytest.raises(P2pError):
            async with here.stranger.open_stream(here.peer.peer_id, wire.PROTOCOL, 60) as one:
                await one.send(bytes(wire.MAX_ASK_BYTES + 1), 30)
                await one.receive(30)
        assert isinstance(await here.ask(wire.AskHead(here.held.datanet)), wire.Head)


async def test_a_sequencer_that_signs_two_logs_is_shown_to_whoever_asks(tmp_path: Path) -> None:
    """Ann has one log, the desk another: she keeps the two rows, writes no more, and shows them."""
    async with scene(tmp_path) as here:
        liar = World()
        liar.now += 30
        liar.join("ben", "ann", "carl")
        mine = Held.create(tmp_path / "ann", BlockStore(tmp_path / "x"), liar.rows[0])
        for row in liar.rows[1:]:
            await mine.append(row)
        await here.remote.catch_up(mine, here.peer)
        assert mine.fork is not None
        places = [parse_registration(one) for one in mine.fork]
        assert places[0].seq == places[1].seq
        assert places[0] != places[1]
        assert here.held.note_fork(*mine.fork)
        head = await here.ask(wire.AskHead(here.held.datanet))
        assert isinstance(head, wire.Head)
        assert tuple(head.fork) == mine.fork
        refused = await here.submit(here.world.claiming("ann", [document("a b c d")]))
        assert isinstance(refused, wire.Refused)
        assert refused.code == "forked"
        third = Held.create(tmp_path / "carl", BlockStore(tmp_path / "y"), liar.rows[0])
        await here.remote.catch_up(third, here.peer)
        assert third.fork == mine.fork


async def test_rows_that_no_sequencer_signed_are_not_taken(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        entry = here.world.joining("carl")
        eve = Signer(bytes([7]) * 32)
        forged = register(here.world.state, eve, entry, here.world.now)
        with pytest.raises(Exception, match="neither the sequencer nor the owner"):
            await here.held.append((forged, entry))
        assert not here.held.note_fork(here.world.rows[-1][0], forged)
        with trio.fail_after(60):
            await here.remote.catch_up(here.held, here.peer)  # with itself: nothing changes
        assert here.held.state == here.world.state


async def test_a_hostile_contribution_costs_a_refusal_and_leaves_nothing(tmp_path: Path) -> None:
    """One block under two sizes, one block twice, and texts in many variants of one claim."""
    async with scene(tmp_path) as here:
        texts = [f"{number} x x ".ljust(60_000, "x") for number in range(5)]
        listed = [document(text) for text in texts]
        claim = here.world.claiming("ann", listed)
        await here.submit(claim)
        whole = "".join(texts).encode()
        first = whole[: 256 << 10]
        here.store.put(first)
        here.store.put(b"report")
        name = digest_of(first)
        for blocks in (
            [(name, len(first)), (name, len(whole) - len(first))],
            [(digest_of(b"nobody has it"), len(first)), (name, len(whole) - len(first))],
        ):
            said: dict[str, Any] = {"blocks": blocks}
            refused = await here.submit(here.world.giving("ann", digest_of(claim), listed, **said))
            assert isinstance(refused, wire.Refused)
            assert refused.code == "text"
        assert isinstance(await here.ask(wire.AskHead(here.held.datanet)), wire.Head)


async def test_drafts_of_texts_that_never_came_are_bounded(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        listed = [document(TEXT.decode())]
        entries = [
            here.world.giving("ann", bytes(32), listed, title=f"variant {number}")
            for number in range(MAX_DRAFTS + 6)
        ]
        for number, entry in enumerate(entries):
            contribution = parse_entry(entry)
            assert isinstance(contribution, Contribution)
            here.held.texts.open_draft(digest_of(entry), contribution, ()).close()
            os.utime(here.held.folder / "texts" / f".{digest_of(entry).hex()}", (number, number))
        left = {path.name[1:] for path in (here.held.folder / "texts").glob(".*")}
        assert left == {digest_of(one).hex() for one in entries[-MAX_DRAFTS - 1 :]}

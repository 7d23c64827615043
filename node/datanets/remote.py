"""Asks other nodes about datanets, and brings texts here.

Believes a row by its signatures and a text by its hashes, whoever gave them; decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import trio

from p2p.blocks.client import fetch_blocks
from p2p.blocks.exchange import BlockRef
from p2p.blocks.rate import Rate
from p2p.cid import Cid
from p2p.errors import P2pError
from p2p.host import Host
from p2p.peers import PeerAddress
from proofs.datanet.entries import Contribution, Registration, digest_of, parse_registration
from proofs.errors import DatanetError

from ..errors import DatanetRefused, NoProvider
from ..telemetry import Telemetry
from ..wire import datanet as wire
from ..wire.infer import WireError
from .ground import Held
from .store import Row

CONNECT_DEADLINE_S = 8.0
ANSWER_DEADLINE_S = 30.0
PROVIDERS_DEADLINE_S = 4.0
FIRST_ROW_DEADLINE_S = 12.0  # of one peer
MAX_BRINGING = 32  # texts at once


@dataclass(frozen=True)
class Found:
    """The newest place that a peer knows; nobody checked yet who signed it."""

    peer: PeerAddress
    registration: bytes
    placed: Registration


class Remote:
    """The other nodes, as one daemon reaches them."""

    def __init__(self, host: Host, telemetry: Telemetry, download: Rate | None = None) -> None:
        self._host = host
        self._telemetry = telemetry
        self._download = download
        self._bringing: set[bytes] = set()
        self._finishing = trio.CapacityLimiter(1)  # each reads a document at a time

    async def ask(self, peer: PeerAddress, message: wire.Ask) -> wire.Answer:
        """Ask one node. Raises P2pError, WireError; a refusal is an answer."""
        if not self._host.is_connected(peer.peer_id):
            await self._host.connect_to(peer, CONNECT_DEADLINE_S)
        async with self._host.open_stream(peer.peer_id, wire.PROTOCOL, ANSWER_DEADLINE_S) as stream:
            await stream.send(wire.encode(message), ANSWER_DEADLINE_S)
            frame = await stream.receive(ANSWER_DEADLINE_S, max_bytes=wire.MAX_ANSWER_BYTES)
            return wire.decode_answer(frame)

    async def reach(
        self, datanet: bytes, peer_id: str, addresses: Sequence[str]
    ) -> tuple[str, ...]:
        """Be connected to one peer that has a datanet; asks the DHT only for one that is not where
        it was. Returns addresses that are news. Raises P2pError.
        """
        if self._host.is_connected(peer_id):
            return ()
        if addresses:
            with suppress(P2pError):
                await self._host.connect_to(
                    PeerAddress(peer_id, tuple(addresses)), CONNECT_DEADLINE_S
                )
                return ()
        found = await self._host.dht.find_providers(Cid(datanet), deadline_s=PROVIDERS_DEADLINE_S)
        told = [one for one in found if one.peer_id == peer_id]
        peer = told[0] if told else PeerAddress(peer_id)
        await self._host.connect_to(peer, CONNECT_DEADLINE_S)
        return peer.addresses

    async def holders(self, datanet: bytes, known: Sequence[PeerAddress]) -> list[PeerAddress]:
        """Return who may have a datanet: those known first, then who says so in the DHT."""
        try:
            found = await self._host.dht.find_providers(
                Cid(datanet), deadline_s=PROVIDERS_DEADLINE_S
            )
        except P2pError:
            found = []
        merged: dict[str, tuple[str, ...]] = {}
        for peer in (*known, *found):
            merged[peer.peer_id] = (*merged.get(peer.peer_id, ()), *peer.addresses)
        merged.pop(self._host.peer_id, None)
        return [PeerAddress(peer_id, addresses) for peer_id, addresses in merged.items()]

    async def first_row(self, datanet: bytes, holders: Sequence[PeerAddress]) -> Row:
        """Return the row with which a log begins. Raises NoProvider."""
        said = "nobody who has it answers"
        for peer in holders:
            try:
                with trio.fail_after(FIRST_ROW_DEADLINE_S):
                    answer = await self.ask(peer, wire.AskEntries(datanet, 0, 1))
            except (P2pError, WireError, trio.TooSlowError) as error:
                said = str(error) or "it took too long"
                continue
            if isinstance(answer, wire.Entries) and answer.rows:
                row = answer.rows[0]
                if digest_of(row[1]) == datanet:
                    return row
                self._telemetry.reject("datanet", peer.peer_id, "another datanet's first row")
        raise NoProvider(
            f"datanet {datanet.hex()[:16]} was not to be had ({said}); ask who invited you whether"
            " their node runs"
        )

    async def head(self, held: Held, peer: PeerAddress) -> Found:
        """Ask a peer for its newest place, and note a fork that it shows. Raises P2pError,
        WireError, DatanetError, OSError.
        """
        answer = await self.ask(peer, wire.AskHead(held.datanet))
        if not isinstance(answer, wire.Head):
            raise DatanetError("unknown", f"{peer.peer_id} does not have it", "ask another member")
        if len(answer.fork) == 2:
            held.note_fork(answer.fork[0], answer.fork[1])
        theirs = parse_registration(answer.registration)
        if theirs.datanet != held.datanet:
            raise DatanetError("datanet", "the head is another's", "ask another member")
        if theirs.seq <= held.state.seq:
            self._compare(held, answer.registration, theirs.seq)
        return Found(peer, answer.registration, theirs)

    async def catch_up(self, held: Held, peer: PeerAddress) -> None:
        """Take what a peer's log has beyond ours. Raises P2pError, WireError, DatanetError,
        OSError.
        """
        theirs = (await self.head(held, peer)).placed
        while held.state.seq < theirs.seq:
            if not await self._take_more(held, peer):
                return

    async def _take_more(self, held: Held, peer: PeerAddress) -> bool:
        """Take the next rows, the last of ours first: it shows whether both are one log."""
        ours = held.state.seq
        answer = await self.ask(peer, wire.AskEntries(held.datanet, ours, wire.MAX_ROWS))
        if not isinstance(answer, wire.Entries) or not answer.rows:
            return False
        first = answer.rows[0][0]
        if parse_registration(first).seq == ours and not self._compare(held, first, ours):
            return False
        moved = False
        for row in answer.rows[1:]:
            async with held.lock:
                if parse_registration(row[0]).seq != held.state.seq + 1:
                    continue  # it came another way meanwhile
                await held.append(row)
            moved = True
        return moved

    def _compare(self, held: Held, registration: bytes, seq: int) -> bool:
        """Return whether a peer's row for a place is ours; one that is not may be evidence."""
        own = held.rows(seq, 1, 1 << 30)
        if own and own[0][0] == registration:
            return True
        if own and held.note_fork(own[0][0], registration):
            self._telemetry.log(
                f"datanets: {held.state.charter.name} is forked: its sequencer signed two entries"
                f" for place {seq}"
            )
        return False

    # --- texts ---

    async def bring(
        self,
        held: Held,
        digest: bytes,
        entry: Contribution,
        providers: Sequence[PeerAddress],
        deadline_s: float,
    ) -> None:
        """Have a contribution's text here, whole and as its documents' hashes say.

        Raises DatanetRefused ("text" where it is still on its way), OSError. What came stays.
        """
        if held.texts.has(digest):
            return
        if digest in self._bringing or len(self._bringing) >= MAX_BRINGING:
            raise DatanetRefused("text", "its text is on its way here", "submit it again")
        self._bringing.add(digest)
        try:
            await self._bring(held, digest, entry, providers, deadline_s)
        finally:
            self._bringing.discard(digest)

    async def _bring(
        self,
        held: Held,
        digest: bytes,
        entry: Contribution,
        providers: Sequence[PeerAddress],
        deadline_s: float,
    ) -> None:
        others = frozenset(self._bringing)
        draft = await trio.to_thread.run_sync(held.texts.open_draft, digest, entry, others)
        with draft:
            missing = set(draft.missing)
            attached = [entry.report] if entry.sketch is None else [entry.report, entry.sketch]
            wanted = [
                BlockRef(Cid(block), size)
                for block, size in (*entry.blocks, *attached)
                if Cid(block) in missing
            ]
            try:
                if wanted:
                    await fetch_blocks(
                        self._host, draft, wanted, providers, deadline_s, rate=self._download
                    )
            except P2pError as error:
                raise DatanetRefused(
                    "text",
                    f"{len(draft.missing)} of {len(wanted)} blocks of its text are missing"
                    f" ({error})",
                    "keep the node that has it running, and submit it again",
                ) from error
        await trio.to_thread.run_sync(_finish, held, digest, entry, limiter=self._finishing)


def _finish(held: Held, digest: bytes, entry: Contribution) -> None:
    try:
        with held.texts.open_text(digest) as file:
            check_text(file, entry)
    except DatanetRefused:
        held.texts.drop(digest)
        raise
    held.texts.finish(digest, entry)


def check_text(file: BinaryIO, entry: Contribution) -> None:
    """Raise DatanetRefused unless a text is the documents that a contribution names. OSError."""
    for number, document in enumerate(entry.documents, start=1):
        data = file.read(document.size)
        if hashlib.sha256(data).digest() != document.digest or not _is_text(data):
            raise DatanetRefused(
                "documents", "its bytes are not what was signed", "give it anew", number
            )


def cut(text: bytes, entry: Contribution) -> list[bytes]:
    """Return a contribution's documents."""
    found = []
    start = 0
    for document in entry.documents:
        found.append(text[start : start + document.size])
        start += document.size
    return found


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

"""Serves `/lorikeet/datanet/1`: gives rows to whoever asks, and entries their places where this
node is the sequencer.

    ask → bounded → parsed → within its rate → the log's rules → (a contribution: its text is here)
        → on the disk → told

Knows no command.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import trio

from p2p.errors import P2pError
from p2p.gossip import RateLimit
from p2p.peers import PeerAddress
from p2p.streams import FrameStream
from proofs.datanet.entries import Contribution, Withdrawal, author_of, digest_of, parse_entry
from proofs.datanet.rules import check
from proofs.errors import DatanetError
from proofs.signing import Signer

from ..errors import DatanetRefused
from ..telemetry import Telemetry
from ..wire import datanet as wire
from ..wire.infer import WireError
from .ground import Held
from .remote import Remote

STREAMS_PER_PEER = 4
SUBMITS_PER_MINUTE = 16  # of one key
PEER_SUBMITS_PER_MINUTE = 64
ASKS_PER_SECOND = 20.0  # of one peer
BURST_ASKS = 100.0
TEXT_DEADLINE_S = 20.0
CATCH_UP_S = 5.0
OWN = ""  # who submits from this very node


class Desk:
    """What one daemon answers. `read_back` makes sure that a log here is the newest; `on_placed`
    hears of one that went on.
    """

    def __init__(
        self,
        signer: Signer,
        held: Mapping[bytes, Held],
        remote: Remote,
        telemetry: Telemetry,
        *,
        read_back: Callable[[Held], Awaitable[None]],
        on_placed: Callable[[Held], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer = signer
        self._held = held
        self._remote = remote
        self._telemetry = telemetry
        self._read_back = read_back
        self._on_placed = on_placed
        self._clock = clock
        self._asks = RateLimit(ASKS_PER_SECOND, BURST_ASKS)
        self._of_key = RateLimit(SUBMITS_PER_MINUTE / 60, SUBMITS_PER_MINUTE)
        self._of_peer = RateLimit(PEER_SUBMITS_PER_MINUTE / 60, PEER_SUBMITS_PER_MINUTE)

    async def serve(self, stream: FrameStream) -> None:
        """Answer one peer's asks until it ends the stream."""
        while True:
            frame = await stream.receive(wire.IDLE_DEADLINE_S, max_bytes=wire.MAX_ASK_BYTES)
            try:
                ask = wire.decode_ask(frame)
            except WireError as error:
                self._telemetry.reject("message", stream.remote, str(error))
                await stream.reset()
                return
            if not self._asks.allow((stream.remote, "datanet"), trio.current_time()):
                await stream.reset()
                return
            answer = await self._answer(stream.remote, ask)
            await stream.send(wire.encode(answer), wire.SEND_DEADLINE_S)

    async def _answer(self, peer_id: str, ask: wire.Ask) -> wire.Answer:
        held = self._held.get(ask.datanet)
        if held is None:
            return _refusal(
                DatanetRefused("unknown", "this node does not have it", "ask another member")
            )
        try:
            match ask:
                case wire.AskHead():
                    newest = await trio.to_thread.run_sync(held.rows, held.state.seq, 1, 1 << 30)
                    return wire.Head(newest[0][0], list(held.fork or ()))
                case wire.AskEntries(first=first, count=count):
                    rows = await trio.to_thread.run_sync(
                        held.rows, first, count, wire.MAX_ROWS_BYTES
                    )
                    return wire.Entries(rows)
                case wire.Submit(entry=entry):
                    return wire.Registered(await self.submit(held, entry, peer_id))
        except DatanetError as error:
            return _refusal(DatanetRefused(error.code, error.detail, error.mend, error.document))
        except DatanetRefused as error:
            return _refusal(error)
        except OSError as error:
            self._telemetry.trouble("datanets", f"the disk: {error}; nothing was lost")
            return _refusal(
                DatanetRefused("disk", f"the sequencer's disk: {error}", "try again later")
            )

    async def submit(self, held: Held, data: bytes, peer_id: str) -> bytes:
        """Give an entry its place, or return the one it has. `peer_id` is `OWN` for this node's.

        Raises DatanetError, DatanetRefused, OSError; then it has none.
        """
        if peer_id != OWN and not self._of_peer.allow((peer_id, ""), trio.current_time()):
            raise _too_often()
        entry = parse_entry(data)
        digest = digest_of(data)
        placed = held.find_place(digest)
        if placed is not None:
            return placed
        if held.state.charter.sequencer != self._signer.public_key and peer_id != OWN:
            await self._catch_up(held, peer_id)
        if held.state.charter.sequencer != self._signer.public_key:
            raise DatanetRefused(
                "sequencer", "this node does not write its log", "submit it to the sequencer"
            )
        await self._read_back(held)
        held.refuse_if_forked()
        author = author_of(entry).hex()
        if peer_id != OWN and not self._of_key.allow((author, ""), trio.current_time()):
            raise _too_often()
        if isinstance(entry, Contribution):
            check(held.state, entry, max(self._now(), held.state.at))
            providers = [] if peer_id == OWN else [PeerAddress(peer_id)]
            await self._remote.bring(held, digest, entry, providers, TEXT_DEADLINE_S)
        registration = await self._place(held, data, digest)
        if isinstance(entry, Withdrawal):
            await trio.to_thread.run_sync(held.texts.drop, entry.contribution)
        self._telemetry.clear("datanets")
        self._telemetry.count("datanet_entries")
        self._on_placed(held)
        return registration

    async def _catch_up(self, held: Held, peer_id: str) -> None:
        """Whoever submits to us may know a charter that makes us the sequencer."""
        with (
            trio.move_on_after(CATCH_UP_S),
            suppress(P2pError, WireError, DatanetError),
        ):
            await self._remote.catch_up(held, PeerAddress(peer_id))

    async def _place(self, held: Held, data: bytes, digest: bytes) -> bytes:
        async with held.lock:
            placed = held.find_place(digest)
            if placed is not None:
                return placed
            try:
                return await held.place(self._signer, data, self._now())
            except DatanetError:
                await trio.to_thread.run_sync(held.texts.drop, digest)  # what was brought for it
                raise

    def _now(self) -> int:
        return int(self._clock())


def _too_often() -> DatanetRefused:
    return DatanetRefused(
        "rate",
        f"more than {SUBMITS_PER_MINUTE} entries of one key, or {PEER_SUBMITS_PER_MINUTE} of one"
        " peer, in a minute",
        "wait a minute",
    )


def _refusal(error: DatanetRefused) -> wire.Refused:
    most = wire.MAX_SAID_CHARS
    return wire.Refused(error.reason, error.document, error.detail[:most], error.mend[:most])

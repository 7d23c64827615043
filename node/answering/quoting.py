"""Tells clients what an answer would cost here and how soon it would begin, one question a stream.

Promises the price alone. Computes nothing for it: it counts, and asks the engine where an adapter
is. Who asks too often hears nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from engine import messages as m
from p2p.cid import Cid
from p2p.errors import P2pError
from p2p.gossip import RateLimit
from p2p.streams import FrameStream
from proofs.receipt import BARE_BASE

from ..catalogue.catalogue import Catalogue
from ..engine_host import EngineHost
from ..errors import EngineError
from ..telemetry import Telemetry
from ..wire import quote as wire
from ..wire.infer import WireError
from ..wire.metering import Price
from .places import Places

STREAMS_PER_PEER = 8
QUOTES_PER_SECOND = 20.0  # of one peer
BURST_QUOTES = 40.0
ALL_QUOTES_PER_SECOND = 200.0
ALL_BURST_QUOTES = 400.0
LISTEN_DEADLINE_S = 5.0
SEND_DEADLINE_S = 5.0
STANDS_MS = 10_000  # so long a price that was quoted is not raised

OnWanted = Callable[[str, Cid], None]
"""Hears which peer would pay this node's price for an adapter that is not here."""


class Quoting:
    """What a volunteer would offer, at the `price` that holds when it is asked."""

    def __init__(
        self,
        engine: EngineHost,
        catalogue: Catalogue,
        price: Callable[[], Price],
        on_wanted: OnWanted,
        telemetry: Telemetry,
        places: Places,
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._price = price
        self._on_wanted = on_wanted
        self._telemetry = telemetry
        self._places = places
        self._of_peer = RateLimit(QUOTES_PER_SECOND, BURST_QUOTES)
        self._of_all = RateLimit(ALL_QUOTES_PER_SECOND, ALL_BURST_QUOTES)

    async def serve(self, stream: FrameStream) -> None:
        """Answer one question."""
        now = trio.current_time()
        if not (
            self._of_peer.allow((stream.remote, "quote"), now)
            and self._of_all.allow(("", "quote"), now)
        ):
            await stream.reset()
            return
        try:
            frame = await stream.receive(LISTEN_DEADLINE_S, max_bytes=wire.MAX_QUOTE_BYTES)
            wanted = wire.decode_ask(frame)
        except (P2pError, WireError) as error:
            self._telemetry.reject("message", stream.remote, str(error))
            await stream.reset()
            return
        await stream.send(wire.encode(await self._answer(stream.remote, wanted)), SEND_DEADLINE_S)

    async def _answer(self, peer_id: str, wanted: wire.AskQuote) -> wire.FromNode:
        ready = self._engine.ready
        if wanted.base != self._catalogue.base:
            return wire.NoQuote("wrong_base")
        if ready is None or not self._engine.is_up:
            return wire.NoQuote("busy")
        if wanted.prompt_tokens >= ready.max_context_tokens:
            return wire.NoQuote("bad_request")
        try:
            return await self._quote(peer_id, wanted)
        except EngineError:
            return wire.NoQuote("busy")

    async def _quote(self, peer_id: str, wanted: wire.AskQuote) -> wire.FromNode:
        price = self._price()
        residency: m.Residency = "slot"
        fetch_bytes = None
        if wanted.adapter != BARE_BASE:
            parts = [Cid(digest) for digest in wanted.parents or [wanted.adapter]]
            if any(map(self._is_withdrawn, parts)):
                return wire.NoQuote("adapter_refused")
            residency = await self._residency(Cid(wanted.adapter), parts)
            if residency == "absent":
                fetch_bytes = self._catalogue.missing_bytes(parts)
                if not price.is_above(Price(wanted.prompt_price, wanted.completion_price)):
                    for cid in self._catalogue.missing(parts):
                        self._on_wanted(peer_id, cid)
        load = self._engine.load_now
        first_ms = load.first_token_ms(wanted.prompt_tokens, residency, fetch_bytes)
        return wire.Quote(
            residency,
            fetch_bytes,
            min(load.running, wire.MAX_COUNT),
            min(load.waiting + self._places.waiting, wire.MAX_COUNT),
            tokens_outstanding=min(load.tokens_outstanding, wire.MAX_COUNT),
            prompt_price=price.prompt,
            completion_price=price.completion,
            first_token_ms=min(round(first_ms), wire.MAX_MS),
            stands_ms=STANDS_MS,
            answers=self._places.announced,
        )

    def _is_withdrawn(self, cid: Cid) -> bool:
        manifest = self._catalogue.find(cid)
        return manifest is not None and self._catalogue.known.is_withdrawn(manifest)

    async def _residency(self, cid: Cid, parts: Sequence[Cid]) -> m.Residency:
        """Return where an adapter is; what is held and not in the engine lies on the disk, and so
        does a cocktail of which all parts are.
        """
        if self._catalogue.missing(parts):
            return "absent"
        residency = await self._engine.residency(cid.digest)
        return "disk" if residency == "absent" else residency

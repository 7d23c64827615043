"""Serves `/lorikeet/v1/live`: what changes in a node, as one stream of events.

Decides how often each part is looked at. A part is told when it is not what was told before, or why
it cannot be told.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ...api.daemon import Daemon
from ...api.money import ReceiptInfo
from ...api.status import LogInfo, StatusInfo
from ...errors import NodeError
from ..control import PREFIX
from ..face import EVENT_STREAM, ByteStream, named_event
from ..leaving import until_left

OFTEN_S = 1.0
SELDOM_S = 5.0
NETWORK_S = 30.0
"""How often a part is looked at that asks other nodes or the chain."""
MAX_STEPS = 32
MAX_RECEIPTS = 100
MAX_ADAPTERS = 200
MAX_LINES = 40
"""How many steps of the engine, newest receipts, adapters and lines of the log are told; there are
routes for all.
"""


@dataclass(frozen=True)
class Part:
    """One thing that the page shows, and how often it is looked at."""

    name: str
    every_s: float
    ask: Callable[[], Awaitable[object]]


def live_routes(daemon: Daemon) -> list[Route]:
    """Return the route of the stream."""

    async def status() -> object:
        return brief(await daemon.status())

    async def held() -> object:
        return daemon.held()

    async def arriving() -> object:
        return daemon.arriving()

    async def adapters() -> object:
        listed = sorted(await daemon.adapters(), key=lambda one: one.state == "known")
        return {"total": len(listed), "first": listed[:MAX_ADAPTERS]}

    async def log() -> object:
        told = daemon.log()
        kept = told.lines[-MAX_LINES:]
        return LogInfo(told.first + len(told.lines) - len(kept), kept)

    async def peers() -> object:
        return daemon.peers()

    async def banned() -> object:
        return daemon.banned()

    async def receipts() -> object:
        return summary(await daemon.receipts(), midnight(time.time()))

    async def runs() -> object:
        return await daemon.training.listing()

    async def datanets() -> object:
        return daemon.datanets.listing()

    parts = (
        Part("status", OFTEN_S, status),
        Part("held", OFTEN_S, held),
        Part("arriving", OFTEN_S, arriving),
        Part("log", OFTEN_S, log),
        Part("runs", OFTEN_S, runs),
        Part("peers", SELDOM_S, peers),
        Part("banned", SELDOM_S, banned),
        Part("datanets", SELDOM_S, datanets),
        Part("receipts", SELDOM_S, receipts),
        Part("adapters", NETWORK_S, adapters),
        Part("earnings", NETWORK_S, daemon.earnings),
        Part("stuck", NETWORK_S, daemon.stuck),
        Part("channels", NETWORK_S, daemon.channels),
    )

    async def live(_: Request) -> Live:
        return Live(parts)

    return [Route(f"{PREFIX}/live", live)]


def brief(status: StatusInfo) -> StatusInfo:
    """Return a status with the engine's last steps only."""
    engine = status.engine
    steps = None if engine is None else engine.get("steps")
    if engine is None or not isinstance(steps, list):
        return status
    return replace(status, engine={**engine, "steps": steps[-MAX_STEPS:]})


def midnight(now: float) -> float:
    """Return when this machine's day began."""
    day = time.localtime(now)
    return time.mktime((day.tm_year, day.tm_mon, day.tm_mday, 0, 0, 0, 0, 0, -1))


def summary(receipts: Sequence[ReceiptInfo], since: float = math.inf) -> dict[str, object]:
    """Return the newest receipts, sums over all of them, and what was served `since` then."""
    counts: Counter[tuple[str, str]] = Counter()
    amounts: Counter[tuple[str, str]] = Counter()
    for one in receipts:
        counts[one.role, one.state] += 1
        amounts[one.role, one.state] += one.amount
    sums = [
        {"role": role, "state": state, "count": counts[role, state], "amount": amount}
        for (role, state), amount in sorted(amounts.items())
    ]
    today = [one.amount for one in receipts if one.role == "node" and one.started_at >= since]
    return {
        "total": len(receipts),
        "sums": sums,
        "today": {"count": len(today), "amount": sum(today)},
        "newest": receipts[:MAX_RECEIPTS],
    }


class Live(Response):
    """The stream: an event for each part that changed, until the browser leaves."""

    media_type = EVENT_STREAM

    def __init__(self, parts: Sequence[Part]) -> None:
        self.status_code = 200
        self.background = None
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell, unless the client leaves first."""
        await until_left(receive, partial(self._run, send))

    async def _run(self, send: Send) -> None:
        stream = ByteStream(send, EVENT_STREAM)
        turn = trio.Lock()
        async with trio.open_nursery() as nursery:
            for part in self._parts:
                nursery.start_soon(follow, part, stream, turn)


async def follow(part: Part, stream: ByteStream, turn: trio.Lock) -> None:
    """Tell one part whenever it changed. `turn` keeps events apart."""
    told = b""
    while True:
        found = named_event({"type": part.name, **await look(part)})
        if found != told:
            async with turn:
                await stream.send(found)
            told = found
        await trio.sleep(part.every_s)


async def look(part: Part) -> dict[str, object]:
    """Return a part as it is, or why it cannot be told."""
    try:
        return {"value": msgspec.to_builtins(await part.ask())}
    except NodeError as error:
        return {"error": str(error)}

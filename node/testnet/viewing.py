"""A network's nodes as a table that lives: who is up, who answers, who is paid.

`row_of` is pure; the rest asks each node's status once a second. Decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..api.status import StatusInfo
from ..running import read_running
from .asking import AskFailed, NodeClient

EVERY_S = 1.0
ASK_DEADLINE_S = 3.0
COLUMNS = (
    "node",
    "role",
    "up",
    "peers",
    "running",
    "waiting",
    "adapters",
    "tok/s",
    "answers",
    "wrong",
)


@dataclass(frozen=True)
class Seen:
    """One look at one node: its status, None where it did not answer; when (s)."""

    name: str
    status: StatusInfo | None
    at_s: float


@dataclass(frozen=True)
class Row:
    """What the table says of one node. `tokens_s` None: nothing to compare with."""

    node: str
    role: str
    up_s: float | None
    peers: int
    running: int
    waiting: int
    adapters: int
    tokens_s: float | None
    answers: int
    wrong: str


def row_of(now: Seen, before: Seen | None) -> Row:
    """Say how a node does, from two looks at it."""
    status = now.status
    if status is None:
        return Row(
            now.name,
            role="",
            up_s=None,
            peers=0,
            running=0,
            waiting=0,
            adapters=0,
            tokens_s=None,
            answers=0,
            wrong="does not answer",
        )
    engine = status.engine or {}
    served = status.counters.get("requests_served", 0) + status.counters.get("answers", 0)
    ready = engine.get("adapters_ready")
    return Row(
        now.name,
        status.role,
        up_s=status.uptime_s,
        peers=status.num_peers,
        running=_count(engine, "running"),
        waiting=_count(engine, "waiting"),
        adapters=len(ready) if isinstance(ready, Sequence) else 0,
        tokens_s=_tokens_s(now, before),
        answers=served,
        wrong=_wrong(status),
    )


def _tokens_s(now: Seen, before: Seen | None) -> float | None:
    if before is None or before.status is None or now.status is None or now.at_s <= before.at_s:
        return None
    made = [
        _count(one.status.engine or {}, "tokens_generated") for one in (before, now) if one.status
    ]
    return max(0, made[1] - made[0]) / (now.at_s - before.at_s)


def _count(engine: Mapping[str, object], name: str) -> int:
    value = engine.get(name)
    return value if isinstance(value, int) else 0


def _wrong(status: StatusInfo) -> str:
    if status.waits_for:
        return f"waits for {status.waits_for}"
    troubles = (status.settlement or {}).get("troubles")
    if isinstance(troubles, Mapping) and troubles:
        part, reason = next(iter(troubles.items()))
        return f"{part}: {reason}"
    if status.rejections:
        what, peer, reason = status.rejections[-1]
        return f"{what} from {peer[-8:]}: {reason}"
    return ""


def table_of(rows: Sequence[Row]) -> Table:
    """Draw the table."""
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        right = name not in ("node", "role", "wrong")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "wrong")
    for row in rows:
        table.add_row(*cells(row), style="red" if row.up_s is None else "")
    return table


def cells(row: Row) -> list[str]:
    """One row, as text."""
    if row.up_s is None:
        return [row.node, *["-"] * 8, row.wrong]
    rate = "-" if row.tokens_s is None else f"{row.tokens_s:.0f}"
    numbers = (row.peers, row.running, row.waiting, row.adapters)
    up = f"{row.up_s:.0f} s"
    return [row.node, row.role, up, *map(str, numbers), rate, str(row.answers), row.wrong]


async def look(name: str, home: Path) -> Seen:
    """Ask one node how it does."""
    running = read_running(home)
    status = None
    if running is not None:
        with trio.move_on_after(ASK_DEADLINE_S):
            async with NodeClient(running.http) as client:
                try:
                    status = await client.status()
                except AskFailed:
                    status = None
    return Seen(name, status, trio.current_time())


async def look_at_all(homes: Mapping[str, Path]) -> dict[str, Seen]:
    """Ask all nodes at once, in the order of `homes`."""
    found: dict[str, Seen] = {}

    async def one(name: str) -> None:
        found[name] = await look(name, homes[name])

    async with trio.open_nursery() as nursery:
        for name in homes:
            nursery.start_soon(one, name)
    return {name: found[name] for name in homes}


async def view(homes: Mapping[str, Path], console: Console, looks: float = math.inf) -> list[Row]:
    """Show the nodes until cancelled, or so many times; the last rows."""
    before: dict[str, Seen] = {}
    rows: list[Row] = []
    with Live(console=console, auto_refresh=False) as live:
        while looks > 0:
            now = await look_at_all(homes)
            rows = [row_of(now[name], before.get(name)) for name in homes]
            live.update(table_of(rows), refresh=True)
            before = now
            looks -= 1
            if looks > 0:
                await trio.sleep(EVERY_S)
    return rows

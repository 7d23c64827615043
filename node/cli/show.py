"""Prints values for a person (tables, colours) and for a pipe (tab-separated lines, JSON).

Asks nothing of the daemon.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from decimal import Decimal

import msgspec
from rich.console import Console
from rich.table import Table

from ..api.status import CoinInfo

TAIL_CHARS = 8

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def show_json(value: object) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table on a terminal; in a pipe one line per row, nothing shortened."""
    listed = [[str(cell) for cell in row] for row in rows]
    if not out.is_terminal:
        for row in [[column.lower().replace(" ", "_") for column in columns], *listed]:
            sys.stdout.write("\t".join(row) + "\n")
        return
    if not listed:
        out.print(f"[dim]{empty}[/dim]")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, style="cyan" if index == 0 else None, overflow="fold")
    for row in listed:
        table.add_row(*row)
    out.print(table)


def show_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one pair per line."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        if out.is_terminal:
            out.print(f"[bold]{name:<{width}}[/bold]  {value}")
        else:
            sys.stdout.write(f"{name}\t{value}\n")


def money(amount: int, coin: CoinInfo) -> str:
    """Format an amount in whole fee tokens, with the token's name."""
    return f"{digits(amount, coin)} {coin.symbol}".rstrip()


def digits(amount: int, coin: CoinInfo) -> str:
    """Format an amount where a column beside it has the token's name."""
    return f"{Decimal(amount).scaleb(-coin.decimals):.{coin.decimals}f}"


def when(at: int) -> str:
    """Format Unix seconds as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def size(num_bytes: int) -> str:
    """Format a size in bytes for people."""
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 100_000 else f"{num_bytes / 1e3:.1f} kB"


def brief(text: str | None) -> str:
    """Return the distinctive end of a long identity."""
    return "-" if not text else text if len(text) <= TAIL_CHARS + 2 else "…" + text[-TAIL_CHARS:]


def on_terminal(text: str | None) -> str:
    """Return an identity, shortened on a terminal, whole in a pipe."""
    return brief(text) if out.is_terminal else (text or "")

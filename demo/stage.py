"""How the demo looks: colours, live columns and tables on a terminal, plain lines in a pipe.

Decides nothing else.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table

REFRESHES_PER_SECOND = 12
WRAP_COLUMNS = 100
MARKS = {True: "[bold green]✓[/bold green]", False: "[bold red]✗[/bold red]"}


class Stage:
    """Where the demo is shown."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.is_terminal = console.is_terminal

    def begin(self, number: int, name: str) -> None:
        """A new step."""
        if self.is_terminal:
            self._console.rule(
                f"[bold cyan]{number}[/bold cyan]  {name}", align="left", style="dim"
            )
        else:
            self._console.print(f"== {number}. {name}", markup=False)

    def say(self, text: str, *, dim: bool = False) -> None:
        """One line; markup is understood."""
        line = f"[dim]{text}[/dim]" if dim else text
        self._console.print(Padding(line, (0, 0, 0, 2)) if self.is_terminal else f"  {line}")

    def give(self, text: str) -> None:
        """Lines to be copied: as they are, however long."""
        self._console.print(text, markup=False, soft_wrap=True)

    def end(self, *, ok: bool, seconds: float, error: str = "") -> None:
        """How the step went."""
        mark = MARKS[ok] if self.is_terminal else ("ok" if ok else "FAILED")
        reason = f"  [red]{escape(error)}[/red]" if error else ""
        self._console.print(f"  {mark} {seconds:.1f} s{reason}\n")

    def short(self, identity: str) -> str:
        """A long identity: shortened on a terminal, whole in a pipe."""
        return f"{identity[:7]}…{identity[-4:]}" if self.is_terminal else identity

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; in a pipe one line per row, cells whole and apart by two spaces."""
        if not self.is_terminal:
            widths = [
                max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))
            ]
            for row in [columns, *rows]:
                line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                self._console.print("  " + line.rstrip(), markup=False, soft_wrap=True)
            return
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            is_one_word = not any(" " in row[index] for row in rows)
            table.add_column(column, style="cyan" if index == 0 else None, no_wrap=is_one_word)
        for row in rows:
            table.add_row(*map(escape, row))
        self._console.print(table)

    @contextmanager
    def side_by_side(self, titles: Sequence[str]) -> Iterator[Callable[[int, str], None]]:
        """Texts that grow beside one another; gives a function that adds to the text at an
        index.
        """
        texts = [""] * len(titles)

        def add(index: int, text: str) -> None:
            texts[index] += text
            live.update(self._panels(titles, texts))

        if self.is_terminal:
            with Live(console=self._console, refresh_per_second=REFRESHES_PER_SECOND) as live:
                yield add
            return

        def add_plainly(index: int, text: str) -> None:
            texts[index] += text

        yield add_plainly
        for title, text in zip(titles, texts, strict=True):
            self._console.print(f"  [{title}]", markup=False)
            self._console.print(
                textwrap.indent(textwrap.fill(text.strip(), WRAP_COLUMNS), "    "),
                markup=False,
                soft_wrap=True,
            )

    def _panels(self, titles: Sequence[str], texts: Sequence[str]) -> Columns:
        width = max(24, (self._console.width - len(titles)) // min(len(titles), 3) - 1)
        panels = [
            Panel(escape(text), title=title, width=width, border_style="cyan")
            for title, text in zip(titles, texts, strict=True)
        ]
        return Columns(panels)

"""`lorikeet testnet`: a whole network on this machine."""

from __future__ import annotations

import typer

app = typer.Typer(help="Run a whole network on this machine.", no_args_is_help=True, rich_markup_mode="rich")

"""Provides `lorikeet testnet`: a whole network on this machine.

Decides only where its files lie; node/testnet does the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import trio
import typer

from ..config import default_home
from .client import EXIT_INTERRUPTED, CliError
from .options import Json
from .show import show_json

app = typer.Typer(
    help=(
        "Run a whole network on this machine: chain, bootstrap node, aggregator, volunteers,"
        " client."
    ),
    no_args_is_help=True,
)


def default_network_home() -> Path:
    """Return the folder beside the default daemon's."""
    return default_home() / "testnet"


Home = Annotated[
    Path,
    typer.Option(
        "--home",
        default_factory=default_network_home,
        show_default="testnet in the data folder",
        help="The network's folder.",
    ),
]


@app.command()
def up(
    home: Home,
    volunteers: Annotated[int, typer.Option(min=1, max=26, help="How many nodes serve.")] = 3,
    adapters: Annotated[
        Path | None,
        typer.Option(help="A folder of adapter folders to publish at the first volunteer."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Leave the network running and return; `testnet down` ends it."
        ),
    ] = False,
) -> None:
    """Start a network, say what to try, and run until Ctrl-C."""
    from ..testnet.interrupts import run_until_signal
    from ..testnet.network import NetworkRuns
    from ..testnet.processes import ProcessDied
    from ..testnet.standing import find_folders, stand

    folders = find_folders(adapters) if adapters is not None else []
    try:
        ended = run_until_signal(lambda: stand(home, volunteers, folders, keep=keep))
    except (ProcessDied, NetworkRuns) as error:
        raise CliError(str(error)) from None
    if not ended and not keep:
        raise typer.Exit(0)
    if not ended:
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command()
def down(home: Home, as_json: Json = False) -> None:
    """End the network of that folder, whoever started it."""
    from ..testnet.network import NETWORK_FILE, read_written
    from ..testnet.processes import end_marked

    written = read_written(home)
    if written is None:
        raise CliError(f"no network runs in {home}")
    ended = trio.run(end_marked, written.mark)
    (home / NETWORK_FILE).unlink(missing_ok=True)
    if as_json:
        return show_json({"ended": ended})
    return print(f"ended {ended} processes")

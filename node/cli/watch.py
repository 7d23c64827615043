"""Provides `lorikeet watch`: recomputes every epoch beside the chain, and convicts the aggregator
whose header lies, with this home's key.

Runs a daemon without engine and faces; what is a lie, node/money/watching.py decides.
"""

from __future__ import annotations

import dataclasses
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import msgspec
import trio
import typer

from ..config import CONFIG_FILE, Config, load_config
from .client import EXIT_ERROR, EXIT_USAGE, CliError
from .options import Home, Json
from .show import out

if TYPE_CHECKING:
    from ..money.watching import Verdict

LEVEL_DEADLINE_S = 300.0
COLOURS = {"holds": "green", "contradicted": "yellow", "hidden": "yellow", "convicted": "red"}


def watch(
    home: Home,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Look at what stands now and end: status 0 when all of it holds, else 1."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Recompute every posted epoch as it comes and challenge what does not follow, until Ctrl-C. A
    proof costs this home's key some gas and earns half of the bond.
    """
    config = dataclasses.replace(load_config(home), role="watcher")
    if not config.chain_rpc:
        raise CliError(f"no chain is configured: set chain_rpc in {home / CONFIG_FILE}", EXIT_USAGE)
    from ..testnet.interrupts import run_until_signal
    from . import serving  # the network stack takes a second to import

    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    heard = Heard(as_json)
    with ExitStack() as stack:
        try:
            stack.enter_context(serving.hold_home(home))
        except CliError as error:
            raise CliError(
                f"{error}; a daemon with a chain watches already. Another watcher wants a home of"
                " its own: lorikeet init --role watcher --home …"
            ) from None
        run_until_signal(lambda: watch_chain(config, heard, once=once))
    if once and not heard.is_well:
        raise typer.Exit(EXIT_ERROR)


class Heard:
    """Prints verdicts, and remembers whether all were good."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self.is_well = True

    def tell(self, verdict: Verdict) -> None:
        """Print one verdict, as a line."""
        self.is_well = self.is_well and verdict.word == "holds"
        what = "a promise" if verdict.epoch is None else f"epoch {verdict.epoch}"
        if self._as_json:
            sys.stdout.write(msgspec.json.encode(verdict).decode() + "\n")
        elif out.is_terminal:
            colour = COLOURS[verdict.word]
            out.print(f"[bold]{what}[/bold]  [{colour}]{verdict.word}[/{colour}]  ", end="")
            out.print(verdict.detail, markup=False)
        else:
            sys.stdout.write(f"{what}\t{verdict.word}\t{verdict.detail}\n")
        sys.stdout.flush()


async def watch_chain(config: Config, heard: Heard, *, once: bool) -> None:
    """Run the watcher: until cancelled, or `once` until it has seen all that is on the chain."""
    from ..app import open_daemon

    async with open_daemon(config, on_verdict=heard.tell) as daemon:
        if not once:
            await trio.sleep_forever()
        assert daemon.money is not None
        mirror = daemon.money.mirror
        assert mirror is not None, "a watcher has a chain"
        with trio.move_on_after(LEVEL_DEADLINE_S) as scope:
            await mirror.level.wait()
        if scope.cancelled_caught:
            raise CliError(
                f"epoch {mirror.history.state.epoch + 1} could not be recomputed within"
                f" {LEVEL_DEADLINE_S:.0f} s: nobody gives its batch, or the chain is silent; see"
                f" {config.home / 'log'}"
            )
        assert daemon.money.watcher is not None, "who mirrors watches"
        with trio.move_on_after(LEVEL_DEADLINE_S) as scope:
            await daemon.money.watcher.wait_idle()
        if scope.cancelled_caught:
            raise CliError(f"what was demanded is not answered; see {config.home / 'log'}")
        trouble = daemon.telemetry.troubles.get("watch")
        if trouble is not None:
            raise CliError(f"not every epoch was judged: {trouble}")

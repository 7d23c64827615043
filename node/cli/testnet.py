"""Provides `lorikeet testnet`: a whole network on this machine.

Decides only where its files lie; node/testnet does the rest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from proofs.chain.structs import FeeToken

from ..config import default_home
from ..testnet.asking import AskFailed, NodeClient
from ..testnet.asking_much import put_load
from ..testnet.loading import (
    HEADINGS,
    MAX_RATE,
    Outcome,
    Planned,
    Report,
    as_html,
    as_png,
    cells,
    make_report,
    plan_load,
)
from .client import EXIT_INTERRUPTED, CliError, find_url
from .options import Json
from .show import err, money, show_json, show_table

app = typer.Typer(
    help=(
        "Run a whole network on this machine: chain, bootstrap node, aggregator, volunteers,"
        " client."
    ),
    no_args_is_help=True,
)


MIN_WITH_FAULTS = 2
REPORTS: Mapping[str, Callable[[Report], bytes]] = {
    ".html": lambda report: as_html(report).encode(),
    ".png": as_png,
}


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
    faults: Annotated[
        bool,
        typer.Option(
            "--faults",
            help="Nodes crash, freeze and spoil their files, by chance; the last one is walled in.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 0,
    fees: Annotated[
        FeeToken,
        typer.Option(help="In what answers are paid: pretend dollars, or the network's own token."),
    ] = "dollars",
    answer_time: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Within which the aggregator answers a demand, or is convicted; earnings are final"
            " after twice as long. Left out: long enough for a busy machine.",
        ),
    ] = None,
) -> None:
    """Start a network, say what to try, and run until Ctrl-C."""
    from ..testnet.interrupts import run_until_signal
    from ..testnet.network import NetworkRuns
    from ..testnet.processes import ProcessDied
    from ..testnet.standing import find_folders, stand

    if faults and (keep or volunteers < MIN_WITH_FAULTS):
        raise CliError(
            f"faults come from this command while it runs, upon all volunteers but the first: leave"
            f" out --keep, and give --volunteers {MIN_WITH_FAULTS} or more"
        )
    folders = find_folders(adapters) if adapters is not None else []
    stood = partial(
        stand,
        home,
        volunteers,
        folders,
        keep=keep,
        fees=fees,
        answer_time_s=answer_time,
        faults_seed=seed if faults else None,
    )
    try:
        ended = run_until_signal(stood)
    except (ProcessDied, NetworkRuns) as error:
        raise CliError(str(error)) from None
    if not ended and not keep:
        raise typer.Exit(0)
    if not ended:
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command()
def decide(
    home: Home,
    text: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="The proposal: title, grounds, a block ```parameters."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Take a proposal through its vote at once, until every node applies it: simulated over the
    past epochs, proposed, voted, queued, executed, in force. The chain's clock goes on meanwhile.
    """
    from proofs.chain.devchain import known_secret
    from proofs.proposal import name_simulation

    from ..testnet.asking import AskFailed
    from ..testnet.deciding import carry, take_over
    from ..testnet.network import read_written
    from ..testnet.plan import BOOTSTRAP, GATEWAY
    from .gov import open_governance_with, read_text, replay_past

    written = read_written(home)
    if written is None:
        raise CliError(f"no network runs in {home}; lorikeet testnet up --keep starts one")
    draft = read_text(text)
    steps: list[dict[str, str]] = []

    def tell(step: str, said: str) -> None:
        steps.append({"step": step, "said": said})
        if not as_json:
            print(f"{step}\t{said}", flush=True)

    client = Path(written.nodes[GATEWAY])
    description = draft.text
    replayed = replay_past(client, "", draft.changes)
    if replayed is not None:
        simulated, coin = replayed
        found = simulated.found
        description = name_simulation(draft.text, hashlib.sha256(simulated.report).digest())
        change = f"{money(found.paid, coin)} paid, would have been {money(found.would_pay, coin)}"
        tell("simulated", f"{found.receipts} answers of {simulated.epochs} epochs: {change}")
    with open_governance_with(client, known_secret("deployer")) as (governance, chain):
        version = carry(governance, chain.rpc, draft.changes, description, tell)
    urls = [find_url(Path(node)) for name, node in written.nodes.items() if name != BOOTSTRAP]
    try:
        trio.run(take_over, find_url(client), urls, version, tell)
    except (AskFailed, trio.TooSlowError) as error:
        raise CliError(f"version {version} is written, and not applied yet: {error!r}") from error
    if as_json:
        show_json({"version": version, "steps": steps})


@app.command()
def load(
    home: Home,
    rate: Annotated[
        float, typer.Option(min=0.01, max=MAX_RATE, help="Questions a second, on average.")
    ] = 20.0,
    zipf: Annotated[
        float, typer.Option(min=0.0, help="How much the first adapters are preferred; 0: alike.")
    ] = 1.0,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long.")] = 30.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 32,
    seed: Annotated[int, typer.Option(help="Of times and choices.")] = 0,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Write a page (.html) or a picture (.png) of it, too. May be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the network's client for its adapters, by chance, at a steady rate; tell how it went."""
    from ..running import read_running
    from ..testnet.network import read_written
    from ..testnet.plan import GATEWAY

    paths = report or []
    for path in paths:
        if path.suffix not in REPORTS:
            raise CliError(f"{path} is neither a page nor a picture; name it .html or .png")
    written = read_written(home)
    running = None if written is None else read_running(Path(written.nodes[GATEWAY]))
    if running is None:
        raise CliError(f"no network runs in {home}; start one: lorikeet testnet up --keep")
    asked = partial(plan_load, rate=rate, zipf=zipf, seconds=seconds, seed=seed)
    try:
        outcomes, late, lasted_s = trio.run(_put, running.http, asked, max_tokens)
    except AskFailed as refusal:
        raise CliError(f"the network's client does not answer: {refusal}") from None
    told = make_report(outcomes, rate=rate, zipf=zipf, lasted_s=lasted_s, late=late)
    for path in paths:
        path.write_bytes(REPORTS[path.suffix](told))
    if as_json:
        return show_json(told)
    for error, count in told.errors.items():
        err.print(f"{count} times {error}", markup=False)
    return show_table(HEADINGS, [cells(row) for row in (told.total, *told.rows)], empty="")


async def _put(
    url: str, asked: Callable[[Sequence[str]], Iterator[Planned]], max_tokens: int
) -> tuple[list[Outcome], int, float]:
    async with NodeClient(url) as client:
        names = [one.name for one in await client.adapters()] or ["base"]
        began = trio.current_time()
        outcomes, late = await put_load(client, asked(names), max_tokens)
        return outcomes, late, trio.current_time() - began


@app.command()
def watch(
    home: Home,
    once: Annotated[bool, typer.Option("--once", help="Look once and return.")] = False,
    as_json: Json = False,
) -> None:
    """Show how each node does, as it changes, until Ctrl-C."""
    from rich.console import Console

    from ..testnet.interrupts import run_until_signal
    from ..testnet.network import read_written
    from ..testnet.viewing import look_at_all, row_of, view

    written = read_written(home)
    if written is None:
        raise CliError(f"no network runs in {home}; start one: lorikeet testnet up --keep")
    homes = {name: Path(node) for name, node in written.nodes.items()}
    if as_json:
        looked = trio.run(look_at_all, homes)
        return show_json([row_of(one, None) for one in looked.values()])

    async def show() -> None:
        await view(homes, Console(), 1 if once else math.inf)

    run_until_signal(show)
    return None


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

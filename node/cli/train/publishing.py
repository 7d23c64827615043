"""Provides `train publish` and `train verify`: a run becomes an adapter that everybody may ask, and
anybody checks one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from ...api.training import AdapterVerifiedInfo, PublishedInfo, PublishSaid, VerifySaid
from ..client import open_client
from ..datanets.asking import run as run_told
from ..options import Home, Json
from ..show import on_terminal, show_facts, show_json, show_table, size
from .asking import Run, Threads
from .drawing import say

EXIT_DIFFERS = 4
EXIT_UNKNOWN = 5
PRICE = (
    "each node that answers asks its own (`completion_price` there); of a fee it gets 60 %, you"
    " 25 %, who gave the texts 15 %"
)


def publish(
    home: Home,
    run: Run,
    name: Annotated[str, typer.Option("--as", help="The adapter's name; else the recipe's.")] = "",
    version: Annotated[str, typer.Option(help="Else the next whole number.")] = "",
    licence: Annotated[str, typer.Option(help="Else those of the texts.")] = "",
    describe: Annotated[str, typer.Option(help="What it is, in a few sentences.")] = "",
    languages: Annotated[
        list[str] | None,
        typer.Option("--language", help="A language it speaks (en, pt-BR); may be repeated."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            resolve_path=True,
            help="The creator's key file, made if absent; else the node's own.",
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway",
            help="Though its verdict is red, or a datanet's newest word is not to be had.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only write what would be published, to be looked at.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a finished run: its adapter, recipe, evaluation and card, and whose words it learnt.

    A newer run under a name that is published is its next version.
    """
    said = PublishSaid(
        name,
        version,
        licence,
        describe,
        languages=tuple(languages or ()),
        key="" if key is None else str(key),
        anyway=anyway,
        dry_run=dry_run,
    )
    with open_client(home) as client:
        route = f"runs/{quote(run, safe='')}/publish"
        info = run_told(client, route, msgspec.to_builtins(said), PublishedInfo)
    if as_json:
        return show_json(info)
    return show_published(run, info)


def show_published(run: str, info: PublishedInfo) -> None:
    """Show what was published, or would be, who is paid, and what comes next."""
    published = [("version", info.version), ("cid", info.cid), ("creator", info.creator)]
    next_step = f"lorikeet run {info.name} …" if info.cid else f"lorikeet train publish {run} …"
    show_facts(
        [
            ("adapter", info.name),
            *(published if info.cid else []),
            ("licence", info.licence or "none is said"),
            ("verdict", info.verdict),
            ("size", size(info.size_bytes)),
            ("folder", info.folder),
            ("price", PRICE),
            ("next", next_step),
        ]
    )
    rows = [
        (one.name, f"{one.tokens:,}", f"{one.owned:,}", f"{one.part:.1%}", on_terminal(one.pay_to))
        for one in info.paid
    ]
    show_table(("Who gave it", "Tokens", "Count", "Part", "Paid to"), rows, empty="nobody")
    if info.answers:
        say(f"parts were measured on {info.answers} answers (lorikeet train influence {run})")
    else:
        say(
            "parts are of the tokens that count; measure influence, and publish again:"
            f" lorikeet train influence {run}"
        )


def verify(
    home: Home,
    model: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="NAME, NAME@VERSION, PEER/NAME or a CID.")
    ],
    train: Annotated[
        bool, typer.Option("--train", help="Train it again, and compare the weights.")
    ] = False,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Check a published adapter against its recipe and its datanets.

    Exit 0: all agrees; 4: something differs; 5: something cannot be known here.
    """
    said = VerifySaid(model, train, threads)
    with open_client(home) as client:
        found = run_told(client, "runs/verify", msgspec.to_builtins(said), AdapterVerifiedInfo)
    if as_json:
        show_json(found)
    else:
        show_facts(
            [
                ("adapter", f"{found.name}@{found.version}"),
                ("cid", found.cid),
                ("creator", found.creator),
                ("outcome", found.outcome),
            ]
        )
        rows = [(one.what, one.outcome, one.why) for one in found.compared]
        show_table(("What", "Outcome", "Detail"), rows, empty="")
    if found.outcome != "agrees":
        raise typer.Exit(EXIT_DIFFERS if found.outcome == "differs" else EXIT_UNKNOWN)

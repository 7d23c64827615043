"""Provides `train new` and `train check`: a recipe is written, and tried before it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from ...api.datanets import DatanetDetail
from ...api.status import BaseInfo
from ...api.training import CheckInfo, RecipeInfo
from ..client import EXIT_USAGE, CliError, DaemonClient, open_client
from ..datanets.asking import path as datanet_path
from ..datanets.asking import run as run_told
from ..options import Home, Json
from ..show import show_facts, show_json, show_table, size
from .asking import RecipeFile, Threads
from .drawing import duration, say

RECIPE = """# Six fields matter; `lorikeet train check {file}` explains each, and tries it out.
recipe = 1
name = "{name}"
base = "{base}"
datanets = [{datanets}]

[adapter]
kind = "{kind}"        # lora, rslora, dora, qlora
rank = {rank}      # or a number: how much it can hold

[train]
epochs = {epochs}    # or a number: how often each text is read
"""


def new(
    home: Home,
    name: Annotated[str, typer.Argument(help="What the adapter will be called.")],
    datanets: Annotated[
        list[str] | None,
        typer.Option("--datanet", help="Whose texts: NAME, or NAME@VERSION; may be repeated."),
    ] = None,
    like: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="RUN",
            help="As this run's, over the newest versions of its datanets: what was withdrawn since"
            " is left out.",
        ),
    ] = "",
    kind: Annotated[str, typer.Option(help="lora, rslora, dora, qlora.")] = "lora",
    rank: Annotated[str, typer.Option(help="How much it can hold: auto, or a number.")] = "auto",
    epochs: Annotated[str, typer.Option(help="How often each text is read: auto, or so.")] = "auto",
    file: Annotated[
        Path | None, typer.Option("--out", dir_okay=False, help="Where; else NAME.toml here.")
    ] = None,
) -> None:
    """Write a recipe, to be looked at and changed before it is trained."""
    path = file or Path(f"{name}.toml")
    if path.exists():
        raise CliError(f"{path} is there already; name another with --out")
    if bool(like) == bool(datanets):
        raise CliError("say either --datanet NAME or --from RUN", EXIT_USAGE)
    quoted = {
        key: value if value.isdecimal() else f'"{value}"'
        for key, value in {"rank": rank, "epochs": epochs}.items()
    }
    with open_client(home) as client:
        if like:
            found = client.post(f"runs/{quote(like, safe='')}/again", {"name": name}, RecipeInfo)
            text = found.text
            for note in found.notes:
                say(note)
        else:
            base = client.get("base", BaseInfo).digest
            sources = ", ".join(_source(client, text) for text in datanets or ())
            text = RECIPE.format(
                file=path, name=name, base=base, datanets=sources, kind=kind, **quoted
            )
    path.write_text(text)
    say(f"written to {path}")
    say(f"next: lorikeet train check {path}   then: lorikeet train start {path}")


def check(home: Home, recipe: RecipeFile, threads: Threads = 0, as_json: Json = False) -> None:
    """Say what a recipe would do: rows, steps, minutes, memory, disk, and what each field means."""
    body = {"recipe": recipe.read_text(), "threads": threads}
    with open_client(home) as client:
        found = run_told(client, "runs/check", body, CheckInfo)
    if as_json:
        return show_json(found)
    rows = [
        (one.field, f"{one.value[:60]} (decided)" if one.is_decided else one.value[:60], one.what)
        for one in found.fields
    ]
    show_table(("Field", "Value", "What it does"), rows, empty="")
    say("")
    show_facts(
        [
            (
                "texts",
                f"{found.documents} documents of {found.people} people, {found.held_out} held out",
            ),
            ("rows", f"{found.rows} of text, {found.chats} of chat; {found.tokens} tokens"),
            ("steps", f"{found.steps}, {found.seconds_a_step:.2f} s each by a trial of three"),
            ("time", duration(found.seconds)),
            ("memory", size(found.memory_bytes)),
            ("disk", size(found.disk_bytes)),
            ("cost", "this machine's time; nobody else is paid for it"),
        ]
    )
    for warning in found.warnings:
        say(f"beware: {warning}")
    return say(f"next: lorikeet train start {recipe}")


def _source(client: DaemonClient, text: str) -> str:
    """Return a datanet's entry in a recipe: its last version, unless one is named."""
    name, _, number = text.partition("@")
    detail = client.get(datanet_path(name), DatanetDetail)
    numbers = [version.number for version in detail.versions]
    if not numbers:
        raise CliError(f"{name} has no version yet; make one: lorikeet datanet version {name}")
    wanted = int(number) if number.isdecimal() else numbers[-1]
    if wanted not in numbers or (number and not number.isdecimal()):
        raise CliError(f"{name} has no version {number}; it has {numbers[0]} to {numbers[-1]}")
    return f'{{ id = "{detail.info.id}", version = {wanted} }}'

"""Provides `train merge`: several adapters in one, whose parents keep their shares."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from ...api.training import MergedInfo, MergeSaid, ParentSaid
from ..client import EXIT_USAGE, CliError, open_client
from ..datanets.asking import run as run_told
from ..options import Home, Json
from ..show import on_terminal, show_json, show_table
from .drawing import say


def merge(
    home: Home,
    name: Annotated[str, typer.Argument(help="What the merged adapter is called.")],
    parents: Annotated[
        list[str], typer.Argument(metavar="PARENT[:WEIGHT]…", help="Adapters; weights are parts.")
    ],
    method: Annotated[
        str, typer.Option(help="linear, ties, dare_linear, dare_ties (peft's).")
    ] = "linear",
    density: Annotated[
        float, typer.Option(help="Of the numbers, so many are kept; not by linear.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Draws what DARE drops.")] = 20260,
    as_json: Json = False,
) -> None:
    """Merge adapters into one; its parents' creators and contributors are paid for it."""
    said = {
        "name": name,
        "parents": [msgspec.to_builtins(parent_of(text)) for text in parents],
        "method": method,
        "density": density,
        "seed": seed,
    }
    try:
        msgspec.convert(said, MergeSaid)
    except msgspec.ValidationError:
        message = f"{method!r} is no method; there are linear, ties, dare_linear, dare_ties"
        raise CliError(message, EXIT_USAGE) from None
    with open_client(home) as client:
        found = run_told(client, "merges", said, MergedInfo)
    if as_json:
        return show_json(found)
    rows = [(one.name, on_terminal(one.cid), f"{one.weight:g}") for one in found.parents]
    show_table(("Parent", "CID", "Weight"), rows, empty="")
    paid = [(one.role, one.address, f"{one.part:.2%}") for one in found.paid]
    show_table(("Paid as", "Address", "Of a fee"), paid, empty="")
    if found.note:
        say(found.note)
    return say(f"{found.name} (rank {found.rank}) lies in {found.folder}; next: lorikeet push it")


def parent_of(text: str) -> ParentSaid:
    """Read NAME or NAME:WEIGHT."""
    model, mark, weight = text.rpartition(":")
    if not mark:
        return ParentSaid(text)
    try:
        return ParentSaid(model, float(weight))
    except ValueError:
        raise CliError(
            f"{weight!r} is no weight of {model!r}; write a number, law:0.7", EXIT_USAGE
        ) from None

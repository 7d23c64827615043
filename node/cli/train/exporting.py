"""Provides `train compare` and `train export`: runs beside one another, and one of them as a folder
that peft reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...api.training import BesideRunInfo, RunsBesideInfo
from ..client import open_client
from ..options import Home, Json
from ..show import show_json, show_table
from .asking import Run
from .drawing import duration, say
from .looking import gain_of


def compare(
    home: Home,
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="Two or more runs.")],
    as_json: Json = False,
) -> None:
    """Show what differs in runs' recipes, and what came of each."""
    with open_client(home) as client:
        found = client.post("runs/compare", {"runs": runs}, RunsBesideInfo)
    if as_json:
        return show_json(found)
    names = [one.run.name for one in found.runs]
    rows = [(one.field, *one.values) for one in found.differing]
    show_table(("Field", *names), rows, empty="their recipes are the same")
    say("")
    show_table(
        ("Run", "State", "Steps", "Held out", "Before", "After", "Gain", "Time", "Verdict"),
        [row_of(one) for one in found.runs],
        empty="",
    )
    return None


def row_of(one: BesideRunInfo) -> tuple[object, ...]:
    """Return what came of a run, as cells."""
    held = one.held_out
    return (
        one.run.name,
        one.run.state,
        f"{one.run.step}/{one.run.num_steps}",
        held.tokens if held else "-",
        f"{held.base:.3f}" if held else "-",
        f"{held.adapter:.3f}" if held else "-",
        gain_of(held) if held else "-",
        duration(one.seconds),
        one.verdict or "-",
    )


def export(
    home: Home,
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="DIR", resolve_path=True, help="A new folder.")],
) -> None:
    """Write a finished run's adapter in peft's own format, its recipe, evaluation and card."""
    with open_client(home) as client:
        client.post(f"runs/{run}/export", {"folder": str(folder)}, dict)
    say(f"{run} lies in {folder}: PeftModel.from_pretrained(base, {str(folder)!r}) reads it")

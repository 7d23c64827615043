"""Provides `train evaluate`: what a finished run's adapter does beside its base."""

from __future__ import annotations

from rich.text import Text

from ...api.training import BesideInfo, EvaluationInfo
from ..client import open_client
from ..options import Home, Json
from ..show import out, show_json, show_table
from .asking import Run
from .drawing import say

SHOWN_CHARS = 400


def evaluate(home: Home, run: Run, as_json: Json = False) -> None:
    """Show what a finished run's adapter does beside its base."""
    with open_client(home) as client:
        found = client.get(f"runs/{run}/evaluation", EvaluationInfo)
    if as_json:
        return show_json(found)
    show_verdict(found)
    every = [found.held_out] if found.held_out else []
    rows = [
        (one.of, one.tokens, f"{one.base:.3f}", f"{one.adapter:.3f}", gain_of(one))
        for one in [*every, *found.people, *found.unseen, found.learnt, found.forgetting]
    ]
    show_table(("Text", "Tokens", "Base loses", "Adapter loses", "Gain"), rows, empty="")
    for answer in found.answers:
        say("")
        out.print(Text(f"> {brief_text(answer.prompt)}", style="bold"))
        out.print(Text(f"base     {brief_text(answer.base)}", style="dim"))
        out.print(Text(f"adapter  {brief_text(answer.adapter)}"))
    return say(f"{found.memorised:.0%} of the adapter's words stand in long runs in what it learnt")


def show_verdict(found: EvaluationInfo) -> None:
    """Say in a sentence whether an adapter is worth publishing: green or red."""
    style = "green" if found.is_good else "bold red"
    out.print(Text(f"{found.name}: {found.verdict}", style=style))


def gain_of(one: BesideInfo) -> str:
    """Format the part of the base's loss that the adapter spares."""
    return f"{1 - one.adapter / one.base:+.1%}" if one.base else "-"


def brief_text(text: str) -> str:
    """Return a text on one line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"

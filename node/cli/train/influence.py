"""Provides `train influence`: whose text mattered to a run's adapter, and what they are paid by."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.live import Live
from rich.text import Text

from ...api.training import FigureInfo, InfluenceInfo, InfluenceSaid
from ..client import CliError, DaemonClient, open_client
from ..options import Home, Json
from ..show import err, show_facts, show_json, show_table
from .asking import Run, Threads
from .drawing import say


def influence(
    home: Home,
    run: Run,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="Begin no training after so many; else as the recipe says."),
    ] = None,
    threads: Threads = 0,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not watch it; it goes on either way.")
    ] = False,
    look: Annotated[
        bool, typer.Option("--show", help="Begin nothing; show what is found until now.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End it here; it can go on later.")] = False,
    as_json: Json = False,
) -> None:
    """Measure whose text mattered, by training again without each; goes on where it was left."""
    path = f"runs/{run}/influence"
    with open_client(home) as client:
        if stop:
            found = client.post(f"{path}/stop", {}, InfluenceInfo)
        elif look:
            found = client.get(path, InfluenceInfo)
        else:
            said = msgspec.to_builtins(InfluenceSaid(minutes, threads))
            found = client.post(path, said, InfluenceInfo)
            if not as_json and not detach and found.state == "working":
                found = follow(client, run)
    if as_json:
        return show_json(found)
    if found.state == "failed":
        raise CliError(found.why)
    return show(found)


def follow(client: DaemonClient, run: str) -> InfluenceInfo:
    """Show how it goes on, until nobody is at work on it."""
    found: InfluenceInfo | None = None
    with (
        Live(console=err, transient=True, auto_refresh=False) as live,
        client.stream(f"/lorikeet/v1/runs/{run}/influence/events") as events,
    ):
        for event in events:
            if "state" not in event:
                break
            word = msgspec.convert(event, InfluenceInfo)
            if err.is_terminal:
                live.update(Text(line_of(word)), refresh=True)
            elif found is None or word.done != found.done:
                say(line_of(word))
            found = word
    assert found is not None, "its first word comes at once"
    return found


def line_of(found: InfluenceInfo) -> str:
    """Say in a line how far it is."""
    total = f" of {found.total}" if found.total else ""
    return f"{found.run}: {found.done}{total} trainings; {found.says}"


def show(found: InfluenceInfo) -> None:
    """Show what is found, and what comes next."""
    rows = [
        (
            person.name + (f" (left out with {person.others} more)" if person.others else ""),
            "-" if found.lambda_eighths is None else f"{person.weight:.1%}",
            f"{person.effect:+.2f}",
        )
        for person in found.people
    ]
    if rows:
        show_table(("Who", "Standing weight", "Left out, nats an answer"), rows, empty="")
        eighths = found.lambda_eighths
        show_facts(
            [
                ("λ", "not fitted" if eighths is None else f"{eighths}/8 follow the answer"),
                ("r", figure(found.r)),
                ("LDS", figure(found.lds)),
                ("answers", found.answers),
                ("learnt", f"{found.tokens} of the run's {found.of_tokens} tokens"),
            ]
        )
    say(f"{found.run}: {found.state}" + (f": {found.why}" if found.why else ""))
    if found.note:
        say(f"beware: {found.note}")


def figure(found: FigureInfo | None) -> str:
    """Format a figure with its interval."""
    if found is None:
        return "not measured"
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"

"""Provides the commands of a run at work: start, status, watch, pause, resume, stop, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.live import Live

from ...api.training import EvaluationInfo, RunInfo, StepInfo, Watched
from ..client import CliError, DaemonClient, open_client
from ..datanets.asking import run as run_told
from ..options import Home, Json
from ..show import err, out, show_facts, show_json, when
from .asking import RecipeFile, Run, Threads
from .drawing import drawn, ending, say, show_runs
from .looking import show_verdict

PAUSED_STATUS = 3


def start(
    home: Home,
    recipe: RecipeFile,
    threads: Threads = 0,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not watch it; it goes on either way.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train by a recipe, in a process that goes on when this window or the daemon is closed."""
    body = {"recipe": recipe.read_text(), "threads": threads}
    with open_client(home) as client:
        run = run_told(client, "runs/start", body, RunInfo)
        if as_json:
            return show_json(run)
        say(f"{run.name} has begun; it goes on when this window is closed")
        if detach:
            return say(f"next: lorikeet train watch {run.name}")
        return follow(client, run.name)


def status(
    home: Home,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]")] = None,
    as_json: Json = False,
) -> None:
    """List the runs beside one another, or show one with its curve."""
    with open_client(home) as client:
        if run is None:
            return show_runs(client.get("runs", list[RunInfo]), as_json)
        found = client.get(f"runs/{run}", Watched)
    if as_json:
        return show_json(found)
    out.print(drawn(found.run, found.steps))
    return show_facts(
        [
            ("folder", found.run.folder),
            ("base", found.run.base),
            ("adapter", f"{found.run.kind}, rank {found.run.rank}"),
            ("texts", f"{found.run.tokens} tokens of {found.run.people} people"),
            ("begun", when(found.run.made_at)),
        ]
    )


def listing(home: Home, as_json: Json = False) -> None:
    """List the runs beside one another, the newest first."""
    with open_client(home) as client:
        show_runs(client.get("runs", list[RunInfo]), as_json)


def watch(home: Home, run: Run) -> None:
    """Watch a run until it is at work no more; leaving does not stop it."""
    with open_client(home) as client:
        follow(client, run)


def pause(home: Home, run: Run, as_json: Json = False) -> None:
    """Have a run pause; it goes on where it was."""
    ask(home, run, "pause", as_json)


def stop(home: Home, run: Run, as_json: Json = False) -> None:
    """End a run here, and keep the adapter that it has learnt."""
    ask(home, run, "finish", as_json)


def resume(home: Home, run: Run, as_json: Json = False) -> None:
    """Have a run go on that was paused, or whose process is gone."""
    with open_client(home) as client:
        found = client.post(f"runs/{run}/resume", {}, RunInfo)
    if as_json:
        return show_json(found)
    return say(f"{run} goes on; watch it: lorikeet train watch {run}")


def delete(
    home: Home,
    run: Run,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a run, its checkpoints and its adapter."""
    if not yes:
        typer.confirm(f"delete the run {run} and its adapter?", abort=True, err=True)
    with open_client(home) as client:
        client.delete(f"runs/{run}")
    say(f"{run} is deleted")


def ask(home: Path, run: str, wanted: str, as_json: bool) -> None:
    """Ask a run's process for something, and wait for it."""
    with open_client(home) as client:
        found = client.post(f"runs/{run}/ask", {"wanted": wanted}, RunInfo)
    if as_json:
        return show_json(found)
    return say(ending(found))


def follow(client: DaemonClient, name: str) -> None:
    """Show a run until it is at work no more; a line for each look where there is no terminal."""
    steps: list[StepInfo] = []
    run: RunInfo | None = None
    with (
        Live(console=err, transient=True, auto_refresh=False) as live,
        client.stream(f"/lorikeet/v1/runs/{name}/events") as events,
    ):
        for event in events:
            if "run" not in event:
                break
            word = msgspec.convert(event, Watched)
            run = word.run
            steps += word.steps
            if err.is_terminal:
                live.update(drawn(run, steps), refresh=True)
            else:
                for step in word.steps:
                    if step.held_out is not None:
                        say(
                            f"step {step.step}/{run.num_steps}: loss {step.loss:.3f}, held out"
                            f" {step.held_out:.3f}"
                        )
    assert run is not None, "a run's first word comes at once"
    say(ending(run))
    if run.state == "finished":
        show_verdict(client.get(f"runs/{name}/evaluation", EvaluationInfo))
    if run.state == "failed":
        raise CliError(run.why)
    if run.state != "finished":
        raise CliError(f"go on with: lorikeet train resume {name}", PAUSED_STATUS)

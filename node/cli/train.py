"""Provides `lorikeet train …`: from a datanet to an adapter, by a recipe.

Knows options, tables and curves; the daemon and the runs' own processes do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.text import Text

from ..api import BaseInfo
from ..datanet_api import DatanetDetail
from ..training_api import (
    BesideInfo,
    CheckInfo,
    EvaluationInfo,
    RunInfo,
    StepInfo,
    Watched,
)
from .client import CliError, DaemonClient, open_client
from .datanets.asking import path as datanet_path
from .datanets.asking import run as run_told
from .options import Home, Json
from .show import err, out, show_facts, show_json, show_table, size, when

BARS = "▁▂▃▄▅▆▇█"
CURVE_CHARS = 48
PAUSED_STATUS = 3
SHOWN_CHARS = 400
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

app = typer.Typer(help="Adapters out of datanets, by recipes.", no_args_is_help=True)

Run = Annotated[str, typer.Argument(metavar="RUN", help="Its recipe's name.")]
RecipeFile = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", exists=True, dir_okay=False, help="A recipe: NAME.toml."),
]
Threads = Annotated[int, typer.Option(help="Of the processor; 0: all.")]


@app.command("new")
def new(
    home: Home,
    name: Annotated[str, typer.Argument(help="What the adapter will be called.")],
    datanets: Annotated[
        list[str],
        typer.Option("--datanet", help="Whose texts: NAME, or NAME@VERSION; may be repeated."),
    ],
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
    with open_client(home) as client:
        base = client.get("base", BaseInfo).digest
        sources = ", ".join(_source(client, text) for text in datanets)
    quoted = {
        key: value if value.isdecimal() else f'"{value}"'
        for key, value in {"rank": rank, "epochs": epochs}.items()
    }
    text = RECIPE.format(file=path, name=name, base=base, datanets=sources, kind=kind, **quoted)
    path.write_text(text)
    say(f"written to {path}")
    say(f"next: lorikeet train check {path}   then: lorikeet train start {path}")


@app.command("check")
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


@app.command("start")
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


@app.command("status")
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


@app.command("watch")
def watch(home: Home, run: Run) -> None:
    """Watch a run until it is at work no more; leaving does not stop it."""
    with open_client(home) as client:
        follow(client, run)


@app.command("evaluate")
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


@app.command("pause")
def pause(home: Home, run: Run, as_json: Json = False) -> None:
    """Have a run pause; it goes on where it was."""
    ask(home, run, "pause", as_json)


@app.command("stop")
def stop(home: Home, run: Run, as_json: Json = False) -> None:
    """End a run here, and keep the adapter that it has learnt."""
    ask(home, run, "finish", as_json)


@app.command("resume")
def resume(home: Home, run: Run, as_json: Json = False) -> None:
    """Have a run go on that was paused, or whose process is gone."""
    with open_client(home) as client:
        found = client.post(f"runs/{run}/resume", {}, RunInfo)
    if as_json:
        return show_json(found)
    return say(f"{run} goes on; watch it: lorikeet train watch {run}")


@app.command("delete")
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


def drawn(run: RunInfo, steps: Sequence[StepInfo]) -> RenderableType:
    """Draw a run: how far it is, its loss and what is held out loses."""
    looks = [step.held_out for step in steps if step.held_out is not None]
    pace = f", {run.tokens_a_second:.0f} tokens a second" if run.tokens_a_second else ""
    left = "" if run.seconds_left is None else f", {duration(run.seconds_left)} left"
    state = "" if run.state == "working" else f"  {run.state}"
    lines: list[RenderableType] = [
        Text(f"{run.name}  step {run.step} of {run.num_steps}{left}{pace}{state}"),
        ProgressBar(total=max(1, run.num_steps), completed=run.step, width=CURVE_CHARS),
    ]
    if steps:
        losses = [step.loss for step in steps]
        lines.append(Text(f"loss      {curve(losses)}  {losses[0]:.2f} → {losses[-1]:.2f}"))
    if looks:
        lines.append(Text(f"held out  {curve(looks)}  {looks[0]:.2f} → {looks[-1]:.2f}"))
    if run.why:
        lines.append(Text(run.why))
    return Group(*lines)


def curve(values: Sequence[float]) -> str:
    """Draw numbers as a line of bars, the highest as the highest."""
    count = min(len(values), CURVE_CHARS)
    ends = [round((place + 1) * len(values) / count) for place in range(count)]
    means = [
        sum(part) / len(part)
        for first, end in zip([0, *ends], ends, strict=False)
        if (part := values[first:end])
    ]
    low, high = min(means), max(means)
    spread = (high - low) or 1.0
    return "".join(BARS[round((mean - low) / spread * (len(BARS) - 1))] for mean in means)


def ending(run: RunInfo) -> str:
    """Say in a line how a run ended, and what comes next."""
    if run.state == "finished":
        gain = ""
        if run.first is not None and run.best is not None:
            gain = f"; what was held out loses {run.best:.3f} nats a token (step {run.best_step})"
        return f"{run.name} is finished after {run.step} steps{gain}: {run.adapter}"
    return f"{run.name} is {run.state} at step {run.step} of {run.num_steps}: {run.why}"


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


def show_runs(runs: Sequence[RunInfo], as_json: bool) -> None:
    """Show runs beside one another."""
    if as_json:
        return show_json(runs)
    rows = [
        (
            run.name,
            run.state,
            f"{run.step}/{run.num_steps}",
            f"{run.kind} {run.rank}",
            run.tokens,
            "-" if run.loss is None else f"{run.loss:.3f}",
            "-" if run.best is None else f"{run.best:.3f}",
            "-" if run.seconds_left is None else duration(run.seconds_left),
        )
        for run in runs
    ]
    columns = ("Run", "State", "Steps", "Adapter", "Tokens", "Loss", "Held out", "Left")
    return show_table(columns, rows, empty="none yet: lorikeet train new NAME --datanet DATANET")


def duration(seconds: float) -> str:
    """Format a duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def say(line: str) -> None:
    """Say one line beside the output."""
    err.print(escape(line), highlight=False)


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

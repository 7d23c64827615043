"""Draws runs: their curves, how they ended, and runs beside one another."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.text import Text

from ...api.training import RunInfo, StepInfo
from ..show import err, show_json, show_table

BARS = "▁▂▃▄▅▆▇█"
CURVE_CHARS = 48


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

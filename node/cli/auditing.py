"""Provides `lorikeet audit`: has the daemon audit a node, or recompute somebody's audit.

Knows options and lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..api.status import CoinInfo
from ..api.verifying import AuditInfo, RecheckInfo, VerifyInfo
from .client import EXIT_USAGE, CliError, open_client
from .options import Home, Json
from .show import money, on_terminal, out, show_json, when
from .why import EXIT_DIFFERS, EXIT_UNKNOWN

MAX_WITHIN_S = 400.0  # for as long as a command waits for its daemon


def audit(
    home: Home,
    node: Annotated[str, typer.Argument(help="The node's peer id (`lorikeet peers`).")] = "",
    model: Annotated[str, typer.Option(help="The adapter that it is asked for.")] = "base",
    canaries: Annotated[int, typer.Option(help="How many questions.")] = 8,
    within: Annotated[
        float, typer.Option(help="Seconds over which they are spread, by lot.")
    ] = 60.0,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file of private prompts, one a line; HOME/prompts where left out."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="REPORT", help="Recompute somebody's audit from its report instead."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Buy answers of a node as a client whom it has never seen, and replay them.

    Exit 0: all that could be judged agree; 4: one differs; 5: none could be judged.
    """
    if (check is None) == (not node):
        raise CliError("name a node to audit, or a report with --check", EXIT_USAGE)
    if within > MAX_WITHIN_S:
        raise CliError(
            f"--within is {within:.0f} s; a command waits for {MAX_WITHIN_S:.0f} at most. Longer"
            " audits are the daemon's own: audits_per_day",
            EXIT_USAGE,
        )
    with open_client(home) as client:
        found: AuditInfo | RecheckInfo
        if check is not None:
            found = client.post("recheck", {"path": str(check.resolve())}, RecheckInfo)
        else:
            said = {"node": node, "model": model, "canaries": canaries, "within_s": within}
            said["prompts"] = "" if prompts is None else str(prompts.resolve())
            found = client.post("audit", said, AuditInfo)
        coin = client.coin()
    if as_json:
        show_json(found)
    else:
        lines = lines_of(found, coin) if isinstance(found, AuditInfo) else lines_of_check(found)
        out.print("\n".join(lines), markup=False)
    if code := {"agrees": 0, "differs": EXIT_DIFFERS, "unknown": EXIT_UNKNOWN}[found.verdict]:
        raise typer.Exit(code)


def lines_of(found: AuditInfo, coin: CoinInfo) -> Iterator[str]:
    """Say what an audit found, for a person."""
    yield f"Audit of {on_terminal(found.node)} with {found.adapter or 'the bare base'}"
    yield from _answers(found.answers)
    for one in found.failures:
        yield f"  {on_terminal(one)}"
    yield f"  spent    {money(found.spent, coin)}"
    because = f": {found.against}" if found.against else ""
    yield f"  weight   {found.weight:.2f} at this node from now on{because}"
    yield f"  told     {found.commitment[:16]}… before; all of it is in {found.report}"
    yield f"  {found.verdict}"


def lines_of_check(found: RecheckInfo) -> Iterator[str]:
    """Say what a recomputed audit shows, for a person."""
    yield f"Audit of {on_terminal(found.node)} with {found.adapter or 'the bare base'}"
    yield f"  auditor  {found.auditor}"
    yield from _answers(found.answers)
    missing = found.canaries - len(found.answers)
    if missing:
        yield f"  {missing} of {found.canaries} canaries are not shown"
    if found.pledged_at is None:
        yield "  pledge   not heard here before the first answer: what is shown may be chosen"
    else:
        yield f"  pledge   heard here at {when(int(found.pledged_at))}, before the first answer"
    yield f"  {found.verdict}"


def _answers(answers: tuple[VerifyInfo, ...]) -> Iterator[str]:
    for one in answers:
        yield f"  {one.verdict:<8} {one.missed} of {one.tokens} tokens did not win: {one.reason}"

"""`lorikeet datanet show | export | verify | recover`: what there is, and whether it holds."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.markup import escape

from ...api.datanets import DatanetDetail, DatanetInfo, ExportInfo, RecoveredInfo, VerifiedInfo
from ..client import CliError, open_client
from ..options import Home, Json
from ..show import err, on_terminal, show_facts, show_json, show_table
from .asking import Datanet, path, run
from .tables import say, show_contributions, show_findings, show_info, show_version

EXIT_DIFFERS = 4
EXIT_UNKNOWN = 5


def show(home: Home, datanet: Datanet, as_json: Json = False) -> None:
    """Show a datanet: its rules, people, contributions and versions."""
    with open_client(home) as client:
        detail = client.get(path(datanet), DatanetDetail)
    if as_json:
        return show_json(detail)
    show_info(detail.info)
    people = [(one.name, one.role, one.accepted, on_terminal(one.peer_id)) for one in detail.people]
    show_table(("Person", "Role", "Accepted", "Peer"), people, empty="nobody")
    show_contributions(detail.contributions, empty="nothing was given yet")
    for one in detail.contributions:
        if one.findings:
            show_findings(one.findings)
    for made in detail.versions:
        show_version(made)
    show_trouble(detail.info)
    return None


def export(
    home: Home,
    datanet: Datanet,
    folder: Annotated[Path, typer.Argument(resolve_path=True, help="A folder to make.")],
    number: Annotated[int | None, typer.Option("--version", help="Which; else the last.")] = None,
    as_json: Json = False,
) -> None:
    """Write a version's texts and their owners into a folder."""
    with open_client(home) as client:
        body = {"folder": str(folder), "version": number}
        info = run(client, path(datanet, "export"), body, ExportInfo)
    if as_json:
        return show_json(info)
    return show_facts(
        [
            ("folder", info.folder),
            ("version", f"{info.version} ({on_terminal(info.digest)})"),
            ("documents", f"{info.documents}, {info.held_out} of them held out of training"),
            ("words", info.words),
            ("people", info.people),
        ]
    )


def verify(home: Home, datanet: Datanet, as_json: Json = False) -> None:
    """Recompute log, versions, texts and the checks' reports.

    Exit 0: all agrees; 4: something differs; 5: nothing differs, and something cannot be known
    here.
    """
    with open_client(home) as client:
        info = run(client, path(datanet, "verify"), {}, VerifiedInfo)
    if as_json:
        show_json(info)
    else:
        show_facts(
            [
                ("log", f"{info.rows} entries"),
                ("versions", info.versions),
                ("texts", f"{info.texts}, with {info.documents} documents"),
                ("reports", f"{info.checked} made again"),
            ]
        )
        for note in info.notes:
            say(f"note: {note}")
        for unknown in info.unknown:
            say(f"cannot be known here: {unknown}")
        for problem in info.problems:
            err.print(f"[bold red]differs:[/bold red] {escape(problem)}")
        say("everything agrees" if not (info.problems or info.unknown) else "")
    if info.problems or info.unknown:
        raise typer.Exit(EXIT_DIFFERS if info.problems else EXIT_UNKNOWN)


def recover(
    home: Home,
    datanet: Datanet,
    is_enough: Annotated[
        bool,
        typer.Option("--enough", help="Nobody has the rest any more: go on from what there is."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch what is missing here of a log and its texts, as after a home came from a backup."""
    with open_client(home) as client:
        info = run(client, path(datanet, "recover"), {"is_enough": is_enough}, RecoveredInfo)
    if as_json:
        show_json(info)
    else:
        facts = [("log", f"{info.rows} entries, {info.fetched} of them came now")]
        show_facts([*facts, ("texts", f"{info.missing} are not to be had now")])
    if info.lost:
        raise CliError(
            f"nobody gave the head {info.lost[:16]}, which this node's key signed: have the nodes"
            " of other members run, and say it again; if nobody has it any more: --enough"
        )


def show_trouble(info: DatanetInfo) -> None:
    """Say what stops a datanet."""
    if info.fork:
        err.print("[bold red]forked[/bold red]: its sequencer signed two entries for one place:")
        for registration in info.fork:
            print(registration)
    if info.lost:
        err.print(
            "[bold red]behind[/bold red]: this home is older than the log, whose head"
            f" {info.lost[:16]} is not here; lorikeet datanet recover {quote(info.name)}"
        )

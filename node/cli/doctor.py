"""Provides `lorikeet doctor`: what works here and in the daemon, and the mend of what does
not.

Knows the table; node/doctor looks.
"""

from __future__ import annotations

from pathlib import Path

import typer

from ..api.doctor import Checked
from ..doctor.machine import examine_machine
from .client import EXIT_ERROR, EXIT_NO_DAEMON, LONG_ANSWER_S, CliError, open_client
from .options import Home, Json
from .show import err, show_json, show_table

MARKS = {"ok": "ok", "note": "note", "wrong": "WRONG"}


def doctor(home: Home, as_json: Json = False) -> None:
    """Look whether this node works: machine, peers, engine, money; status 1 where it does not."""
    found = look_at(home)
    if as_json:
        show_json(found)
    else:
        rows = [(one.part, MARKS[one.state], one.what, one.mend) for one in found]
        show_table(("Part", "", "What", "Mend"), rows, empty="")
        num_wrong = sum(one.state == "wrong" for one in found)
        err.print("everything works" if not num_wrong else f"{num_wrong} of {len(found)} are wrong")
    if any(one.state == "wrong" for one in found):
        raise typer.Exit(EXIT_ERROR)


def look_at(home: Path) -> list[Checked]:
    """Look at a home, its machine and its daemon."""
    return [*examine_machine(home), *_examine_running(home)]


def _examine_running(home: Home) -> list[Checked]:
    """Have the daemon look at itself; that none runs is worth a word."""
    if not home.is_dir():
        return []
    try:
        with open_client(home) as client:
            return client.get("checkup", list[Checked], timeout_s=LONG_ANSWER_S)
    except CliError as error:
        if error.exit_code != EXIT_NO_DAEMON:
            return [Checked("daemon", "wrong", str(error), f"look at {home / 'log'}")]
        return [Checked("daemon", "note", "none runs here", f"lorikeet up --home {home}")]

"""How the commands of datanets ask the daemon, and how far it is meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import quote

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..client import EXIT_ERROR, CliError, DaemonClient, decode
from ..show import err

STAGES = {
    "examine": "looking at the files",
    "claim": "claiming",
    "give": "giving",
    "wait": "waiting for the sequencer",
    "look": "looking at what waits",
    "fetch": "fetching texts",
    "export": "writing",
    "log": "looking at the log",
    "texts": "recomputing texts",
    "run": "reading the run",
    "rows": "making rows",
    "background": "drawing the base's own words",
    "publish": "publishing",
    "train": "training again",
}

Datanet = Annotated[str, typer.Argument(metavar="DATANET", help="Its name, or its digest.")]
Contribution = Annotated[
    str, typer.Argument(metavar="CONTRIBUTION", help="Its digest, or the begin of it.")
]
Person = Annotated[str, typer.Argument(metavar="PERSON", help="A name, or a peer id.")]
Value = TypeVar("Value")


def path(datanet: str, rest: str = "") -> str:
    """Return a route of one datanet."""
    return f"datanets/{quote(datanet, safe='')}" + (f"/{rest}" if rest else "")


def run(client: DaemonClient, route: str, body: object, kind: type[Value]) -> Value:
    """Have something done that takes long; show on a terminal how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars,
        client.stream(f"/lorikeet/v1/{route}", body) as events,
    ):
        bar = bars.add_task("working", total=None)
        for event in events:
            if "result" in event:
                return decode(msgspec.json.encode(event["result"]), kind)
            said = event["progress"]
            what = STAGES.get(said["stage"], said["stage"])
            bars.update(
                bar,
                description=escape(f"{what} {said['note'][:40]}"),
                completed=said["done"],
                total=said["total"] or None,
            )
    raise CliError("the daemon hung up in mid-answer", EXIT_ERROR)


def read_words(path: Path) -> str:
    """Return a text file's words, to agree to. Raises CliError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{path} cannot be read: {error}; save it as UTF-8 text") from error

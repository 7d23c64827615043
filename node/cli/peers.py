"""The commands about peers: who is connected, and who is banned.

Asks the daemon, decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ..api.status import BannedInfo, PeerInfo
from .client import open_client
from .options import Home, Json
from .show import on_terminal, show_json, show_table, size, when

app = typer.Typer(help="List the connected peers; ban one, and lift that.")


@app.callback(invoke_without_command=True)
def peers(context: typer.Context, home: Home, as_json: Json = False) -> None:
    """List the connected peers; ban one, and lift that."""
    if context.invoked_subcommand is not None:
        return None
    with open_client(home) as client:
        listed = client.get("peers", list[PeerInfo])
    if as_json:
        return show_json(listed)
    rows = [
        (
            one.peer_id,
            one.address,
            " ".join(one.roles),
            when(int(one.heard_at)) if one.heard_at else "-",
            size(one.received_bytes),
            size(one.sent_bytes),
            f"{one.weight:.2f} {one.against}".rstrip(),
        )
        for one in listed
    ]
    columns = ("Peer", "Address", "Roles", "Heard last", "Received", "Sent", "Weight")
    return show_table(columns, rows, empty="no peers yet")


@app.command("ban")
def ban(
    home: Home,
    peer: Annotated[str, typer.Argument(help="Its peer id (`lorikeet peers`).")],
    why: Annotated[str, typer.Option("--why", help="A note to yourself.")] = "",
    as_json: Json = False,
) -> None:
    """Hang up on a peer and take it back never, also after a restart, until `unban`."""
    with open_client(home) as client:
        listed = client.post("ban", {"peer": peer, "why": why}, list[BannedInfo])
    return show_banned(listed, as_json)


@app.command("unban")
def unban(
    home: Home,
    peer: Annotated[str, typer.Argument(help="Its peer id (`lorikeet peers banned`).")],
    as_json: Json = False,
) -> None:
    """Let a peer come back that was banned."""
    with open_client(home) as client:
        listed = client.post("unban", {"peer": peer}, list[BannedInfo])
    return show_banned(listed, as_json)


@app.command("banned")
def banned(home: Home, as_json: Json = False) -> None:
    """List who is banned, and why."""
    with open_client(home) as client:
        listed = client.get("banned", list[BannedInfo])
    return show_banned(listed, as_json)


def show_banned(listed: Sequence[BannedInfo], as_json: bool) -> None:
    """One banned peer a row, the latest first."""
    if as_json:
        return show_json(listed)
    rows = [(on_terminal(one.peer_id), when(one.since), one.why or "-") for one in listed]
    return show_table(("Peer", "Since", "Why"), rows, empty="nobody is banned")

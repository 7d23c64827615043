"""Provides `lorikeet datanet …`: communities that collect texts together.

Knows options, tables and progress bars; the daemon does the rest.
"""

import typer

from . import council, members, reading

app = typer.Typer(
    help="Communities that collect texts together, under signed rules.", no_args_is_help=True
)
app.command("create")(members.create)
app.command("list")(members.list_datanets)
app.command("invite")(members.invite)
app.command("join")(members.join)
app.command("leave")(members.leave)
app.command("give")(members.give)
app.command("withdraw")(members.withdraw)
app.command("queue")(council.queue)
app.command("text")(council.text)
app.command("accept")(council.accept)
app.command("refuse")(council.refuse)
app.command("hold")(council.hold)
app.command("role")(council.role)
app.command("version")(council.version)
app.command("charter")(council.charter)
app.command("hand-on")(council.hand_on)
app.command("show")(reading.show)
app.command("export")(reading.export)
app.command("verify")(reading.verify)
app.command("recover")(reading.recover)

__all__ = ["app"]

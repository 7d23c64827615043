"""Provides `lorikeet train …`: from a datanet to a published adapter, by a recipe.

Knows options, tables and curves; the daemon and the runs' own processes do the rest.
"""

import typer

from . import chatting, exporting, influence, looking, merging, publishing, recipes, runs

app = typer.Typer(help="Adapters out of datanets, by recipes.", no_args_is_help=True)
app.command("new")(recipes.new)
app.command("check")(recipes.check)
app.command("start")(runs.start)
app.command("status")(runs.status)
app.command("watch")(runs.watch)
app.command("pause")(runs.pause)
app.command("resume")(runs.resume)
app.command("stop")(runs.stop)
app.command("delete")(runs.delete)
app.command("evaluate")(looking.evaluate)
app.command("chat")(chatting.chat)
app.command("influence")(influence.influence)
app.command("merge")(merging.merge)
app.command("list")(runs.listing)
app.command("compare")(exporting.compare)
app.command("export")(exporting.export)
app.command("publish")(publishing.publish)
app.command("verify")(publishing.verify)

__all__ = ["app"]

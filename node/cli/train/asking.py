"""Declares what several commands of `lorikeet train` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(metavar="RUN", help="Its recipe's name.")]
RecipeFile = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", exists=True, dir_okay=False, help="A recipe: NAME.toml."),
]
Threads = Annotated[int, typer.Option(help="Of the processor; 0: all.")]

"""Declares the options that every command shares. Decides nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import default_home

Home = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="LORIKEET_HOME",
        default_factory=default_home,
        show_default="the platform's data folder",
        help="The daemon's folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

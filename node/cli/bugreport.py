"""Provides bugreport: what is looked at, and where the report goes. node/doctor/reporting.py makes
it, for the page as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..doctor.reporting import report_on
from .client import CliError, open_client
from .doctor import look_at
from .options import Home


def bugreport(
    home: Home,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where it goes; standard output.")
    ] = None,
) -> None:
    """Write what others need to help: doctor, figures, settings, the log's end. It is made to be
    shown in public: no keys, passwords, tokens, addresses, peers, and no text of a prompt.
    """
    text = report_on(home, look_at(home), _metrics(home))
    if file is None:
        print(text, end="")
    else:
        file.write_text(text)


def _metrics(home: Path) -> str:
    if not home.is_dir():
        return ""
    try:
        with open_client(home) as client:
            return client.get_bytes("metrics").decode()
    except CliError:
        return ""

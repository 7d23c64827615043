"""Provides backup, move and restore. Knows whether a daemon runs; node/backup.py copies."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from ..config import load_config
from .client import EXIT_USAGE, CliError
from .options import Home, Json
from .show import err, show_facts, show_json, size

File = Annotated[Path, typer.Argument(metavar="FILE", help="Where it goes, or lies.")]
Encrypt = Annotated[
    bool,
    typer.Option("--encrypt", help="Encrypt bare keys in it with LORIKEET_PASSWORD."),
]
WithoutAdapters = Annotated[
    bool,
    typer.Option(
        "--without-adapters",
        help="Leave adapters out: others have them, or nobody has what only this node published.",
    ),
]


def backup(
    home: Home,
    file: File,
    encrypt: Encrypt = False,
    without_adapters: WithoutAdapters = False,
    as_json: Json = False,
) -> None:
    """Copy this home into one file, also while its daemon runs.

    Keep it as you keep keys: they are in it.
    """
    _copy(home, file, encrypt, without_adapters, is_last=False, as_json=as_json)
    err.print(
        "what this node signs from now on is not in it: restored, it collects and takes back, and"
        " serves nobody; `lorikeet move` makes one that serves",
        highlight=False,
    )


def move(
    home: Home,
    file: File,
    encrypt: Encrypt = False,
    without_adapters: WithoutAdapters = False,
    as_json: Json = False,
) -> None:
    """Copy this home into one file, and never start it here again: it goes on where the file is
    restored, once.
    """
    from ..backup import check_backup
    from ..lives import Moved, check_not_moved, write_note
    from .serving import hold_home

    check_not_moved(home)
    with hold_home(home):
        _copy(home, file, encrypt, without_adapters, is_last=True, as_json=as_json)
        check_backup(file)
        write_note(home, Moved(str(file.resolve()), int(time.time())))
    err.print(f"restore it once, and remove {home} when it runs there", highlight=False)


def restore(
    home: Home,
    file: File,
    as_json: Json = False,
) -> None:
    """Make a home out of a backup; the home must not be there yet, or be empty."""
    from ..backup import restore as restore_home
    from ..keys import PRIVATE_UMASK
    from ..lives import SERVES_NOBODY

    os.umask(PRIVATE_UMASK)
    index = restore_home(file, home, now=int(time.time()))
    facts = {"home": str(home), "files": len(index.files), "serves": index.is_last}
    if as_json:
        show_json(facts)
    else:
        show_facts([*facts.items(), ("next", f"lorikeet up --home {home}")])
    if not index.is_last:
        err.print(f"where answers are paid: {SERVES_NOBODY}", highlight=False)


def _copy(
    home: Path,
    file: Path,
    encrypt: bool,
    without_adapters: bool,
    *,
    is_last: bool,
    as_json: bool,
) -> None:
    from ..backup import Wanted, back_up
    from ..keys import read_password

    if not home.is_dir():
        raise CliError(f"{home} is not there; name one with --home", EXIT_USAGE)
    config = load_config(home)
    password = read_password(config.key_files.password) if encrypt else None
    wanted = Wanted(is_last, not without_adapters, password)
    index = back_up(config, file, wanted)
    facts = {
        "file": str(file),
        "files": len(index.files),
        "bytes": file.stat().st_size,
        "outside": list(index.outside),
    }
    if as_json:
        show_json(facts)
    else:
        shown = facts | {"bytes": size(file.stat().st_size), "outside": ", ".join(index.outside)}
        show_facts(list(shown.items()))

"""Provides install-service. Decides where the unit goes; node/service_unit.py writes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ..config import load_config
from ..service_unit import NAME, Unit, unit_text
from .client import EXIT_USAGE, CliError
from .options import Home
from .show import err

SYSTEM_UNITS = Path("/etc/systemd/system")
VERIFY_DEADLINE_S = 30.0


def install_service(
    home: Home,
    system: Annotated[
        bool,
        typer.Option("--system", help="One of the system's, more hardened; needs root."),
    ] = False,
    user: Annotated[
        str | None, typer.Option(help="With --system: as whom it runs; who owns the home.")
    ] = None,
    print_it: Annotated[
        bool, typer.Option("--print", help="Print the unit and change nothing.")
    ] = False,
) -> None:
    """Write a systemd unit that runs this home's daemon, hardened, and starts it again."""
    home = home.expanduser().resolve()
    if not home.is_dir():
        raise CliError(f"{home} is not there; make it first: lorikeet init --home {home}")
    load_config(home)
    if user is not None and not system:
        raise CliError("--user goes with --system", EXIT_USAGE)
    runs_as = None
    if system:
        runs_as = user or home.owner()
    try:
        text = unit_text(Unit(Path(sys.executable), home, runs_as))
    except ValueError as error:
        raise CliError(str(error), EXIT_USAGE) from None
    if print_it:
        print(text, end="")
        return
    place = (SYSTEM_UNITS if system else _user_units()) / f"{NAME}.service"
    complaints = complaints_of(text)
    if complaints:
        raise CliError(f"systemd does not take the unit: {complaints}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    except OSError as error:
        raise CliError(f"{place}: {error.strerror}; run it as root, or without --system") from None
    scope = "" if system else "--user "
    err.print(f"wrote {place}; now:", highlight=False)
    print(f"systemctl {scope}daemon-reload && systemctl {scope}enable --now {NAME}")
    if not system:
        err.print(
            "to have it run while you are logged out: loginctl enable-linger", highlight=False
        )


def complaints_of(text: str) -> str:
    """What systemd-analyze says against a unit; "" where it has nothing to say, or is not here."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{NAME}.service"
        path.write_text(text)
        try:
            done = subprocess.run(
                [program, "--man=no", "verify", str(path)],
                capture_output=True,
                text=True,
                timeout=VERIFY_DEADLINE_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    about = [line for line in done.stderr.splitlines() if f"{NAME}.service" in line]
    return "; ".join(about) if done.returncode else ""


def _user_units() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "systemd" / "user"

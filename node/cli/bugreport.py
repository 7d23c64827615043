"""Provides bugreport. Gathers what is there and what must not leave; node/bugreport.py writes."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..bugreport import LOG_LINES, Report, write_report
from ..config import Config, load_config, settings
from ..errors import ConfigError
from ..keys import PASSWORD_VARIABLE
from .client import CliError, open_client
from .doctor import look_at
from .options import Home

MAX_LOG_BYTES = 1 << 20
MAX_SECRET_BYTES = 1 << 14
PACKAGES = ("lorikeet", "libp2p", "torch", "trio", "hypercorn", "web3")


def bugreport(
    home: Home,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where it goes; standard output.")
    ] = None,
) -> None:
    """Write what others need to help: doctor, figures, settings, the log's end. It is made to be
    shown in public: no keys, passwords, tokens, addresses, and no text of a prompt.
    """
    config = None
    try:
        config = load_config(home)
    except ConfigError as error:
        versions = _versions() | {"settings": f"cannot be read: {type(error).__name__}"}
    else:
        versions = _versions() | {"role": config.role}
    report = Report(
        versions, _differing(config), look_at(home), _metrics(home), log=_last_lines(home / "log")
    )
    text = write_report(report, {*_secrets(home, config)})
    if file is None:
        print(text, end="")
    else:
        file.write_text(text)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": f"{platform.system()} {os.cpu_count()}"}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _differing(config: Config | None) -> dict[str, object]:
    if config is None:
        return {}
    values = {name: getattr(config, name) for name in settings()}
    return {name: one for name, one in values.items() if one != settings()[name].default}


def _metrics(home: Path) -> str:
    if not home.is_dir():
        return ""
    try:
        with open_client(home) as client:
            return client.get_bytes("metrics").decode()
    except CliError:
        return ""


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_LOG_BYTES))
            return file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return []


def _secrets(home: Path, config: Config | None) -> Iterator[str]:
    """Yield what is secret, or tells where this machine stands and whose it is."""
    yield from (str(home), str(Path.home()), socket.gethostname(), getpass.getuser())
    yield os.environ.get(PASSWORD_VARIABLE, "")
    if config is None:
        return
    yield from (config.network_key, config.engine_key, *config.chain_rpc)
    files = config.key_files
    for path in (files.operator, files.payer, files.aggregator, files.password):
        try:
            if path is not None:
                with path.open("rb") as file:
                    yield file.read(MAX_SECRET_BYTES).decode(errors="replace").strip()
        except OSError:
            continue

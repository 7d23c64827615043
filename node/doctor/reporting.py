"""Gathers what a report says that is safe to show in public, and what must not be in it. Blocks;
node/bugreport.py writes.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import os
import platform
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..api.doctor import Checked
from ..bugreport import LOG_LINES, OF_PLACES, Report, write_report
from ..config import Config, load_config, settings
from ..errors import ConfigError
from ..keys import PASSWORD_VARIABLE

MAX_LOG_BYTES = 1 << 20
MAX_SECRET_BYTES = 1 << 14
PACKAGES = ("lorikeet", "libp2p", "torch", "trio", "hypercorn", "web3")


def report_on(home: Path, found: Sequence[Checked], metrics: str) -> str:
    """Write the report on a home: what the doctor found, the daemon's figures ("": none runs), and
    what is read here.
    """
    config = None
    try:
        config = load_config(home)
    except ConfigError as error:
        versions = _versions() | {"settings": f"cannot be read: {type(error).__name__}"}
    else:
        versions = _versions() | {"role": config.role}
    report = Report(versions, _differing(config), found, metrics, log=_last_lines(home / "log"))
    return write_report(report, {*secrets_of(home, config)})


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


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_LOG_BYTES))
            return file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return []


def secrets_of(home: Path, config: Config | None) -> Iterator[str]:
    """Yield what is secret, or tells where this machine stands and whose it is."""
    yield from (str(home), str(Path.home()), socket.gethostname())
    with contextlib.suppress(KeyError, OSError):  # in a container the user may have no name
        yield getpass.getuser()
    yield os.environ.get(PASSWORD_VARIABLE, "")
    if config is None:
        return
    yield from _places(config)
    yield from (config.network_key, config.engine_key, *config.chain_rpc)
    files = config.key_files
    for path in (files.operator, files.payer, files.aggregator, files.password):
        try:
            if path is not None:
                with path.open("rb") as file:
                    yield file.read(MAX_SECRET_BYTES).decode(errors="replace").strip()
        except OSError:
            continue


def _places(config: Config) -> Iterator[str]:
    """Yield the names of machines that settings hold, alone: an error may tell of one."""
    for name in OF_PLACES:
        value = getattr(config, name)
        for text in value if isinstance(value, tuple) else (value,):
            yield from (part for part in re.split(r"[/:\s]+", str(text)) if "." in part)

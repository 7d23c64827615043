"""Provides the commands that create and start a daemon: init, up.

Knows the settings; serving.py runs the process.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from proofs.heap import loading_modules
from proofs.hextext import to_hex

from ..config import CONFIG_FILE, ENV_PREFIX, dump_config, load_config, settings
from .client import EXIT_USAGE, CliError
from .invite import join
from .options import Home, Json
from .show import show_facts, show_json


def init(
    home: Home,
    role: Annotated[
        str, typer.Option(help="volunteer, gateway, bootstrap, aggregator or watcher.")
    ] = "volunteer",
    bootstrap: Annotated[
        list[str] | None, typer.Option(help="A peer to start from (multiaddr); may be repeated.")
    ] = None,
    stated_settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting; may be repeated. A list is ONE,TWO or an array.",
        ),
    ] = None,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt",
            help="Encrypt the keys with a password: LORIKEET_PASSWORD, or password_file.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a node's folder: its keys and its lorikeet.toml."""
    from proofs.signing import address_of

    from ..keys import PRIVATE_UMASK, make_key, read_password

    os.umask(PRIVATE_UMASK)
    stated = {"role": role, "bootstrap": ",".join(bootstrap or [])} | dict(
        parse_setting(text) for text in stated_settings or []
    )
    path = home / CONFIG_FILE
    if path.exists():
        raise CliError(f"{path} exists already; edit it, or choose another --home")
    config = load_config(home, {ENV_PREFIX + name.upper(): value for name, value in stated.items()})
    files = config.key_files
    password = read_password(files.password) if encrypt else None
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(dump_config(config))
    identity = make_key(files.operator, password)
    facts = {
        "home": str(home),
        "peer": identity.peer_id,
        "address": to_hex(address_of(identity.public_key)),
        "config": str(path),
    }
    if config.role in ("volunteer", "gateway"):
        facts["payer"] = to_hex(address_of(make_key(files.payer, password).public_key))
    if config.role == "aggregator":
        facts["aggregator"] = to_hex(address_of(make_key(files.aggregator, password).public_key))
    if as_json:
        return show_json(facts)
    return show_facts([*facts.items(), ("next", f"lorikeet up --home {home}")])


def parse_setting(text: str) -> tuple[str, str]:
    """Split NAME=VALUE."""
    name, sign, value = text.partition("=")
    if not sign or name not in settings():
        raise CliError(f"--set {text}: say NAME=VALUE with a NAME of lorikeet.toml", EXIT_USAGE)
    return name, value


def up(
    home: Home,
    token: Annotated[
        str | None,
        typer.Option(
            "--join", metavar="TOKEN", help="Join the network of this token (lorikeet invite)."
        ),
    ] = None,
) -> None:
    """Run the daemon here until Ctrl-C or SIGTERM."""
    from ..keys import PRIVATE_UMASK

    with loading_modules():
        from . import serving  # the network stack takes seconds, and only this command needs it

    os.umask(PRIVATE_UMASK)
    home.mkdir(parents=True, exist_ok=True)
    with serving.hold_home(home):
        if token is not None:
            join(home, token)
        serving.run(load_config(home))

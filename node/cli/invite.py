"""Provides `lorikeet invite`, and what `lorikeet up --join` does with its token.

Does not know how a token is written: node/invite.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..api.status import StatusInfo
from ..config import CONFIG_FILE, ENV_PREFIX, dump_config, load_config
from ..invite import MAX_BOOTSTRAP, SHARED, read_invite, write_invite
from .client import CliError, open_client
from .options import Home
from .show import err

ADDED = ("bootstrap", "base_card")
"""Of these a token may say others: peers come to those known, a card of the same base replaces."""


def invite(
    home: Home,
    with_rpc: Annotated[
        bool,
        typer.Option(
            "--with-rpc",
            help="Share chain_rpc too; think of keys that its addresses may hold.",
        ),
    ] = False,
) -> None:
    """Print a token with which another machine joins this network: lorikeet up --join TOKEN."""
    config = load_config(home)
    with open_client(home) as client:
        status = client.get("status", StatusInfo)
    shared: dict[str, Any] = {name: getattr(config, name) for name in SHARED}
    if not with_rpc:
        del shared["chain_rpc"]
    shared["bootstrap"] = _spread_out([*status.addresses, *config.bootstrap])
    shared["base"] = config.base or status.base.rpartition(" ")[2]
    shared["base_card"] = config.base_card or status.base_card
    if not shared["bootstrap"]:
        raise CliError("nobody could reach this node yet; see `lorikeet status`, and try again")
    if config.network_key:
        err.print("whoever has this token can join the private network", highlight=False)
    print(write_invite(shared))


def _spread_out(addresses: list[str]) -> list[str]:
    """Take a few addresses, of every peer one before of any two."""
    owners = [address.rpartition("/")[2] for address in addresses]
    turn = [owners[:number].count(owner) for number, owner in enumerate(owners)]
    order = sorted(range(len(addresses)), key=lambda number: turn[number])
    return [addresses[number] for number in order[:MAX_BOOTSTRAP]]


def join(home: Path, token: str) -> None:
    """Write this home's lorikeet.toml from a token; one that is here already must not say that it
    is of another network, and learns what it does not say.
    """
    settings = read_invite(token)
    path = home / CONFIG_FILE
    if not path.exists():
        path.write_text(dump_config(load_config(home, _as_environment(settings))))
        return
    here = load_config(home, {})
    there = load_config(home, _as_environment(settings))
    told = {name: getattr(there, name) for name in settings}
    said = {name: value for name in told if (value := getattr(here, name))}
    differing = [name for name in said if name not in ADDED and said[name] != told[name]]
    if differing:
        raise CliError(
            f"{path} is of another network ({', '.join(differing)} differ); join with another"
            " --home, or edit it"
        )
    both = tuple(dict.fromkeys((*there.bootstrap, *here.bootstrap)))[: 2 * MAX_BOOTSTRAP]
    path.write_text(dump_config(replace(here, **(told | {"bootstrap": both}))))


def _as_environment(settings: dict[str, str]) -> dict[str, str]:
    return {ENV_PREFIX + name.upper(): value for name, value in settings.items()}

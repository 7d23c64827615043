"""Provides `lorikeet base`: which base this node has, where it came from, and the card by which
others get it.

Changes nothing.
"""

from __future__ import annotations

import sys

import msgspec
import typer

from proofs.basecard import parse_card
from proofs.errors import BaseCardError

from ..api.status import BaseInfo
from .client import CliError, open_client
from .options import Home, Json
from .show import show_facts, show_json, size

app = typer.Typer(help="The base model: which it is, and where it came from.", no_args_is_help=True)
ORIGINS = {
    "installation": "came with the installation",
    "base_path": "base_path in lorikeet.toml",
    "network": "other nodes of the network",
}


@app.command("show")
def show(home: Home, as_json: Json = False) -> None:
    """Show this node's base."""
    with open_client(home) as client:
        info = client.get("base", BaseInfo)
    if as_json:
        return show_json(info)
    facts: list[tuple[str, object]] = [
        ("base", info.name or "-"),
        ("digest", info.digest or "-"),
        ("from", ORIGINS[info.origin]),
        ("lies at", info.path or "not here: this node needs only its tokenizer"),
        ("format", info.format or "-"),
        ("size", size(info.size_bytes) if info.size_bytes else "-"),
        ("files", info.num_files or "-"),
        ("licence", info.licence or "-"),
        ("source", info.source or "-"),
        ("card", info.card or "none: others cannot fetch it from here (see the log)"),
        ("signed by", info.signer or "-"),
    ]
    if info.waits_for:
        facts = [(name, value) for name, value in facts if name in ("base", "digest", "card")]
        facts.append(("waits for", info.waits_for))
    return show_facts(facts)


@app.command("card")
def card(home: Home, as_json: Json = False) -> None:
    """Write the base's signed card to stdout: its bytes, or with --json all that it says."""
    with open_client(home) as client:
        data = client.get_bytes("base/card")
    if not as_json:
        sys.stdout.buffer.write(data if not sys.stdout.isatty() else data.hex().encode() + b"\n")
        return None
    try:
        found = parse_card(data)
    except BaseCardError as error:
        raise CliError(f"this daemon's card cannot be read: {error}") from error
    return show_json(_plain(found) | {"card": data.hex()})


def _plain(value: object) -> dict[str, object]:
    """Return a record by its fields' names, bytes as hex."""
    assert isinstance(value, msgspec.Struct)
    return {name: _plain_part(getattr(value, name)) for name in value.__struct_fields__}


def _plain_part(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return _plain(value)
    if isinstance(value, bytes):
        return value.hex()
    return [_plain_part(part) for part in value] if isinstance(value, list | tuple) else value

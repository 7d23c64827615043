"""Provides the commands of a creator: push, versions, rollback, retract; and search, by which
others find what was pushed.

Knows options and tables; the daemon does the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ..api.adapters import AdapterInfo, PushTold, SearchRequest, VersionInfo
from .ask import progress
from .client import EXIT_USAGE, CliError, open_client
from .options import Home, Json
from .show import on_terminal, show_facts, show_json, show_table, size, when

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}

Key = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        resolve_path=True,
        help="The creator's key file; else the node's own.",
    ),
]
Version = Annotated[str, typer.Argument(metavar="NAME@VERSION")]


def push(
    home: Home,
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            resolve_path=True,
            help="A PEFT folder with a lorikeet.toml.",
        ),
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            resolve_path=True,
            help="The creator's key file, made if absent; else the node's own.",
        ),
    ] = None,
    languages: Annotated[
        list[str] | None,
        typer.Option("--language", help="A language it speaks (en, pt-BR); may be repeated."),
    ] = None,
    licence: Annotated[str, typer.Option(help="Its licence, for example CC0-1.0.")] = "",
    describe: Annotated[str, typer.Option(help="What it is, in a few sentences.")] = "",
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="A contributor, or a contribution (the begin of its digest), that was withdrawn:"
            " the next version pays nothing for it, and those before are withdrawn. May be"
            " repeated."
        ),
    ] = None,
    register: Annotated[
        bool,
        typer.Option(
            "--register", help="Register its weights to the creator before anybody hears of it."
        ),
    ] = False,
    royalty: Annotated[
        float,
        typer.Option(min=0, max=100, help="Percent that who builds on it is to owe; registered."),
    ] = 0.0,
    parents: Annotated[
        list[str] | None,
        typer.Option(
            "--parent", help="The weights' digest of what it is made of; registered. Repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish an adapter: sign its manifest, store its blocks, advertise it.

    What options say wins over lorikeet.toml. Without a version there, it is the next whole number.
    """
    if (royalty or parents) and not register:
        raise CliError("--royalty and --parent are registered; add --register", EXIT_USAGE)
    told = PushTold(
        describe,
        tuple(languages or ()),
        licence,
        without=tuple(dict.fromkeys(without or ())),
        register=register,
        royalty_bps=round(royalty * 100),
        parents=tuple(parents or ()),
    )
    with open_client(home) as client, progress(f"publishing {folder.name}"):
        body = {
            "folder": str(folder),
            "key": None if key is None else str(key),
            "told": msgspec.to_builtins(told),
        }
        info = client.post("push", body, AdapterInfo)
    if as_json:
        return show_json(info)
    return show_facts(
        [
            ("adapter", info.name),
            ("version", info.version),
            ("cid", info.cid),
            ("creator", info.creator),
            ("size", size(info.size_bytes)),
            *([("weights", info.weights)] if info.weights else []),
            *([("note", info.note)] if info.note else []),
            ("try", f"lorikeet run {info.name} …"),
        ]
    )


def search(
    home: Home,
    words: Annotated[
        list[str] | None, typer.Argument(help="All must occur in name, description or source.")
    ] = None,
    language: Annotated[str, typer.Option(help="A language it must speak: en, pt-BR.")] = "",
    licence: Annotated[str, typer.Option(help="The licence it must have.")] = "",
    base: Annotated[str, typer.Option(help="The base it must be for, in hex, or its begin.")] = "",
    max_size: Annotated[str, typer.Option(help="Its most bytes: 800K, 20M, 1G.")] = "",
    as_json: Json = False,
) -> None:
    """Look through the adapters that this node has heard of."""
    wanted = SearchRequest(
        tuple(words or ()), language, licence, base, max_size_bytes=parse_size(max_size)
    )
    with open_client(home) as client:
        found = client.post("search", msgspec.to_builtins(wanted), list[AdapterInfo])
    if as_json:
        return show_json(found)
    rows = [
        (
            f"{one.name}@{one.version}",
            one.description,
            " ".join(one.languages),
            one.licence,
            size(one.size_bytes),
            one.providers,
            on_terminal(one.creator),
        )
        for one in found
    ]
    return show_table(
        ("Name", "What it is", "Languages", "Licence", "Size", "Providers", "Creator"),
        rows,
        empty="nothing like that was heard of; a node hears of adapters once it is connected",
    )


def parse_size(text: str) -> int | None:
    """Read a number of bytes with its unit; nothing is None."""
    number = text.upper().removesuffix("B")
    unit = number[-1:] if number[-1:] in UNITS else ""
    if not text:
        return None
    try:
        return int(float(number.removesuffix(unit)) * UNITS[unit])
    except (ValueError, OverflowError):
        raise CliError(f"--max-size {text}: say for example 800K, 20M or 1G", EXIT_USAGE) from None


def versions(
    home: Home,
    name: Annotated[str, typer.Argument(help="NAME of this node's, or PEER/NAME.")],
    as_json: Json = False,
) -> None:
    """List the versions of a name."""
    with open_client(home) as client:
        listed = client.get(f"versions/{name}", list[VersionInfo])
    return show_versions(listed, as_json)


def rollback(home: Home, version: Version, key: Key = None, as_json: Json = False) -> None:
    """Have NAME mean an earlier version again, for everybody."""
    tell(home, "rollback", version, key=key, as_json=as_json)


def retract(home: Home, version: Version, key: Key = None, as_json: Json = False) -> None:
    """Withdraw a version: nodes take no new request for it, what runs ends."""
    tell(home, "retract", version, key=key, as_json=as_json)


def tell(home: Path, path: str, version: str, *, key: Path | None, as_json: bool) -> None:
    """Say something of one version and show all of them."""
    body = {"version": version, "key": None if key is None else str(key)}
    with open_client(home) as client:
        listed = client.post(path, body, list[VersionInfo])
    show_versions(listed, as_json)


def show_versions(listed: list[VersionInfo], as_json: bool) -> None:
    """Show the versions of one name."""
    if as_json:
        return show_json(listed)
    rows = [
        (
            one.name,
            "withdrawn" if one.cid is None else on_terminal(one.cid),
            "this is what the name means" if one.is_meant else "",
            when(one.signed_at),
        )
        for one in listed
    ]
    return show_table(("Version", "CID", "", "Signed"), rows, empty="no versions are known here")

"""Provides `lorikeet import`: offers adapters that lie on this disk already, without a copy.

Knows options and tables; the daemon looks through the disk and publishes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ..api.adapters import AdapterInfo, FoundInfo
from .ask import progress
from .client import EXIT_ERROR, EXIT_USAGE, CliError, DaemonClient, open_client
from .options import Home, Json
from .publish import Key
from .show import err, on_terminal, show_json, show_table, size


@dataclass(frozen=True)
class Imported:
    """What became of one adapter; `error` why it is not offered."""

    repo: str
    adapter: AdapterInfo | None = None
    error: str | None = None


def import_(
    home: Home,
    path: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            file_okay=False,
            resolve_path=True,
            show_default="the hub's cache of this user",
            help="A hub's cache, one of its models--… folders, or a PEFT folder.",
        ),
    ] = None,
    names: Annotated[
        list[str] | None, typer.Argument(help="Which to offer, as they are listed: ORG/NAME.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Offer every one that fits.")] = False,
    as_name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="The name under which one is offered.")
    ] = "",
    key: Key = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be offered, and offer nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Offer adapters that lie on this disk already: their files stay where they are.

    Without names, lists what is there and what fits this node's base.
    """
    where = path or hub_cache()
    with open_client(home) as client:
        with progress(f"looking through {where}"):
            found = client.post("find", {"path": str(where)}, list[FoundInfo])
        chosen = choose(found, names or [], every=every)
        if as_name:
            chosen = [renamed(one, chosen, as_name) for one in chosen]
        if dry_run or not chosen:
            shown = chosen if dry_run and (names or every) else found
            return show_found(shown, as_json=as_json, is_chosen=bool(chosen))
        done = [
            offer(client, one, key, f"{at} of {len(chosen)}") for at, one in enumerate(chosen, 1)
        ]
    show_imported(done, as_json)
    if any(one.error is not None for one in done):
        raise typer.Exit(EXIT_ERROR)
    return None


def hub_cache() -> Path:
    """Return where huggingface_hub keeps what this user downloads."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser().resolve()
    if not cache.is_dir():
        raise CliError(f"there is no hub's cache at {cache}; name a folder", EXIT_USAGE)
    return cache


def choose(found: list[FoundInfo], names: list[str], *, every: bool) -> list[FoundInfo]:
    """Return what is to be offered. Raises CliError for a name that cannot be."""
    chosen = {one.repo: one for one in found if every and one.state == "fits"}
    for name in names:
        matching = [one for one in found if name in (one.repo, one.name)]
        if not matching:
            raise CliError(
                f"{name!r} is not among what was found; leave it out to list", EXIT_USAGE
            )
        one = matching[0]
        if one.state not in ("fits", "doubtful"):
            raise CliError(f"{one.repo}: {one.reason}")
        chosen[one.repo] = one
    if every and not chosen:
        raise CliError("nothing here fits this node's base; leave out --all to see why")
    return list(chosen.values())


def renamed(one: FoundInfo, chosen: list[FoundInfo], name: str) -> FoundInfo:
    """Return what was found, to be offered under another name."""
    if len(chosen) != 1:
        raise CliError("--as names one adapter; name that one alone", EXIT_USAGE)
    return replace(one, name=name, told=replace(one.told, name=name))


def offer(client: DaemonClient, one: FoundInfo, key: Path | None, place: str) -> Imported:
    """Have the daemon publish one adapter, and say what became of it."""
    body = {
        "folder": one.folder,
        "key": None if key is None else str(key),
        "told": msgspec.to_builtins(one.told),
        "in_place": True,
    }
    try:
        with progress(f"publishing {one.repo}, {size(one.size_bytes)} ({place})"):
            return Imported(one.repo, client.post("push", body, AdapterInfo))
    except CliError as error:
        if error.exit_code != EXIT_ERROR:
            raise
        return Imported(one.repo, error=str(error))


def show_found(found: list[FoundInfo], *, as_json: bool, is_chosen: bool) -> None:
    """Show what was found, or what would be offered."""
    if as_json:
        return show_json(found)
    rows = [(one.repo, size(one.size_bytes), one.told.licence, verdict(one)) for one in found]
    show_table(("Found", "Size", "Licence", "Verdict"), rows, empty="nothing is there")
    num_fits = sum(one.state == "fits" for one in found)
    if is_chosen:
        err.print(f"{len(found)} would be offered; nothing was", markup=False)
    elif num_fits:
        err.print(f"{num_fits} fit; name those to offer, or --all", markup=False)
    return None


def verdict(one: FoundInfo) -> str:
    """Say in one line what can be done with what was found."""
    return f"fits, as {one.name}" if one.state == "fits" else f"{one.state}: {one.reason}"


def show_imported(done: list[Imported], as_json: bool) -> None:
    """Show what is offered now, and what is not."""
    if as_json:
        return show_json(done)
    rows = [
        (
            f"{one.adapter.name}@{one.adapter.version}",
            size(one.adapter.size_bytes),
            one.repo,
            one.adapter.licence,
            on_terminal(one.adapter.cid),
        )
        for one in done
        if one.adapter is not None
    ]
    show_table(("Adapter", "Size", "From", "Licence", "CID"), rows, empty="nothing was offered")
    for one in done:
        if one.error is not None:
            err.print(f"error: {one.repo}: {one.error}", markup=False)
    return None

"""Provides the command that looks at one adapter closely: show.

Knows options and lines; the daemon does the rest.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..api.adapters import AlikeInfo, RegisteredInfo, ShownInfo
from .ask import progress
from .client import open_client
from .options import Home, Json
from .show import on_terminal, show_facts, show_json, size, when


def show(
    home: Home,
    model: Annotated[str, typer.Argument(help="NAME, PEER/NAME or a CID.")],
    as_json: Json = False,
) -> None:
    """Look at an adapter: its weights' digest, whose they are, which others are nearly the same.

    Fetches it, unless it is here. It is compared with the adapters that are held here.
    """
    with open_client(home) as client, progress(f"looking at {model}"):
        shown = client.post("show", {"model": model}, ShownInfo)
    if as_json:
        return show_json(shown)
    adapter = shown.adapter
    return show_facts(
        [
            ("adapter", f"{adapter.name}  {adapter.cid}"),
            ("version", adapter.version),
            ("creator", adapter.creator),
            ("size", size(adapter.size_bytes)),
            ("weights", shown.weights or f"none: {shown.why_none}"),
            *([("as float16", shown.weights_half)] if shown.weights_half else []),
            ("registered", whose(shown)),
            *(more(shown.registered) if shown.registered else []),
            *(("alike", how_alike(one)) for one in shown.alike),
        ]
    )


def whose(shown: ShownInfo) -> str:
    """Say to whom the weights are registered, if anybody."""
    found = shown.registered
    if found is None:
        return "no" if shown.has_registry else "nobody asked: no registry is set"
    to = f"to {found.creator} since block {found.block}, {when(found.at)}"
    return to if found.is_theirs else f"{to}, who did NOT sign this manifest"


def more(found: RegisteredInfo) -> list[tuple[str, str]]:
    """List the rest of what a registration says."""
    facts = [("owner", found.owner)] if found.owner != found.creator else []
    facts += [("royalty", f"{found.royalty_bps / 100:g} %")] if found.royalty_bps else []
    return facts + [("parent", parent) for parent in found.parents]


def how_alike(one: AlikeInfo) -> str:
    """Say how nearly another adapter adds the same."""
    return (
        f"{one.name}  {on_terminal(one.cid)} of {on_terminal(one.creator)}: cosine {one.cosine:.4f}"
        f" over {one.modules} modules (least {one.least:.4f}), strength x{one.strength:.3g}"
    )

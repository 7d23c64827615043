"""Brings a recipe's texts here: each datanet's version, exported, without what nobody may learn
from any more: what was withdrawn or refused since, and what is of people who are barred.

Asks this daemon's datanets; makes no tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from factory.training.recipe import Datanet

from ..api.datanets import DatanetDetail, Datanets, Tell
from ..datanets.exporting import DATANET, DOCUMENTS
from ..errors import BadRequest


class Line(msgspec.Struct, frozen=True):
    """A line of an export: a document, its number in its contribution, and whose it is."""

    text: str
    title: str
    person: str
    name: str
    pay_to: str
    contribution: str
    document: int
    held_out: bool
    licence: str
    source: str
    language: str


class Exported(msgspec.Struct, frozen=True):
    """What an export says of the whole."""

    datanet: str
    name: str
    version: int
    digest: str
    documents_sha256: str


@dataclass(frozen=True)
class Gone:
    """A contribution that nobody may learn from any more, whose it was, and why."""

    contribution: str
    title: str
    name: str
    why: str


@dataclass(frozen=True)
class Source:
    """The texts of one datanet's version. `titles` are those of all its contributions; `left` of
    them were withdrawn since, `dropped` documents are here and may not be learnt from; `is_newest`:
    its log was to be had.
    """

    about: Exported
    lines: tuple[Line, ...]
    titles: Mapping[str, str]
    purpose: str
    gone: Mapping[str, Gone]
    left: int
    dropped: int
    is_newest: bool


async def bring(
    datanets: Datanets, wanted: Sequence[Datanet], scratch: Path, tell: Tell
) -> tuple[Source, ...]:
    """Bring the texts of these versions, by way of an empty folder. Raises NodeError."""
    sources = []
    for number, one in enumerate(wanted):
        is_newest = await datanets.is_reached(one.id)
        detail = await datanets.show(one.id)
        folder = scratch / str(number)
        await datanets.export(one.id, one.version, folder, tell)
        about, lines = await trio.to_thread.run_sync(_read, folder)
        gone = gone_of(detail)
        kept = tuple(line for line in lines if line.contribution not in gone)
        sources.append(
            Source(
                about,
                kept,
                {one.id: one.title for one in detail.contributions},
                detail.info.purpose,
                gone,
                left=sum(v.left for v in detail.versions if v.number == one.version),
                dropped=len(lines) - len(kept),
                is_newest=is_newest,
            )
        )
    return tuple(sources)


def gone_of(detail: DatanetDetail) -> dict[str, Gone]:
    """Return what nobody may learn from any more, by digest."""
    barred = {one.peer_id for one in detail.people if one.role == "barred"}
    found = {}
    for one in detail.contributions:
        why = ""
        if one.state == "withdrawn":
            why = "withdrawn"
        elif one.state == "refused":
            why = "refused by its council"
        elif one.peer_id in barred:
            why = "of somebody who was barred"
        if why and one.kind == "contribution":
            found[one.id] = Gone(one.id, one.title, one.name, why)
    return found


def _read(folder: Path) -> tuple[Exported, list[Line]]:
    try:
        about = msgspec.json.decode((folder / DATANET).read_bytes(), type=Exported)
        data = (folder / DOCUMENTS).read_bytes()
        lines = [msgspec.json.decode(line, type=Line) for line in data.splitlines() if line.strip()]
    except (OSError, msgspec.DecodeError) as error:
        raise BadRequest(f"{folder} is no export of a datanet: {error}") from error
    if hashlib.sha256(data).hexdigest() != about.documents_sha256:
        raise BadRequest(f"{folder / DOCUMENTS} is not what {DATANET} says; export it again")
    return about, lines

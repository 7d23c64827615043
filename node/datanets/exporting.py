"""Writes a version of a datanet as a folder that a trainer or anybody else reads.

    documents.jsonl   one document a line, in log order, with its owner and its rights
    datanet.json      which version, whose it is, who has how much

Follows from log and texts; the same everywhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from p2p.identity import peer_id_of
from proofs.datanet.state import Signed
from proofs.datanet.version import Part, parts_of, standing_weights
from proofs.hextext import to_hex

from ..api.datanets import ExportInfo, Progress, Tell
from ..errors import BadRequest
from .ground import Held
from .remote import cut

DOCUMENTS, DATANET = "documents.jsonl", "datanet.json"
WHOLE_EVERY = 64  # documents between two words of progress


def export(held: Held, made: Signed, folder: Path, tell: Tell) -> ExportInfo:
    """Write a version, without what was withdrawn since, into a new folder, all or nothing. Blocks.

    Raises BadRequest for a folder that is there, or that the disk does not take.
    """
    check_new(folder)
    whole = parts_of(held.state, made.version.contributions)
    parts = tuple(part for part in whole if part.given.withdrawn is None)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        info = _write(held, made, parts, draft, folder=folder, tell=tell)
        draft.rename(folder)
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written: {error}; nothing is left there") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return info


def check_new(folder: Path) -> None:
    """Raise BadRequest for a folder that is there."""
    if folder.exists():
        raise BadRequest(f"{folder} is there already; name a new folder")


def _write(
    held: Held, made: Signed, parts: tuple[Part, ...], draft: Path, folder: Path, tell: Tell
) -> ExportInfo:
    total = sum(len(part.documents) for part in parts)
    num_held = sum(len(part.held_out) for part in parts)
    words = 0
    hasher = hashlib.sha256()
    with (draft / DOCUMENTS).open("wb") as file:
        for number, row in enumerate(_rows(held, parts)):
            line = msgspec.json.encode(row) + b"\n"
            file.write(line)
            hasher.update(line)
            words += int(str(row["words"]))
            if number % WHOLE_EVERY == 0:
                tell(Progress("export", number, total))
        file.flush()
        os.fsync(file.fileno())
    tell(Progress("export", total, total))
    about = _about(held, made, parts, hasher.hexdigest())
    data = msgspec.json.format(msgspec.json.encode(about), indent=1)
    (draft / DATANET).write_bytes(data + b"\n")
    return ExportInfo(
        str(folder),
        made.version.number,
        made.digest.hex(),
        total,
        held_out=num_held,
        words=words,
        people=len(made.version.totals),
    )


def _about(held: Held, made: Signed, parts: tuple[Part, ...], digest: str) -> dict[str, object]:
    return {
        "datanet": held.datanet.hex(),
        "name": held.state.charter.name,
        "version": made.version.number,
        "digest": made.digest.hex(),
        "documents": sum(len(part.documents) for part in parts),
        "held_out": sum(len(part.held_out) for part in parts),
        "documents_sha256": digest,
        "people": [
            {
                "person": peer_id_of(one.person),
                "name": _name(held, one.person),
                "pay_to": to_hex(one.pay_to),
                "documents": one.documents,
                "words": one.words,
                "held_out": one.held_out,
            }
            for one in made.version.totals
        ],
        "standing_weights": [
            {"pay_to": to_hex(address), "weight": weight}
            for address, weight in standing_weights(parts)
        ],
    }


def _rows(held: Held, parts: tuple[Part, ...]) -> Iterator[dict[str, object]]:
    for part in parts:
        if not part.documents:
            continue
        entry = held.contribution(part.given.digest)
        texts = cut(held.texts.read(part.given.digest), entry)
        for number in part.documents:
            yield {
                "text": texts[number].decode(),
                "title": entry.documents[number].title,
                "person": peer_id_of(entry.contributor),
                "name": _name(held, entry.contributor),
                "pay_to": to_hex(entry.pay_to),
                "contribution": part.given.digest.hex(),
                "document": number + 1,
                "words": entry.documents[number].words,
                "held_out": number in part.held_out,
                "licence": entry.licence,
                "source": entry.source,
                "language": entry.language,
            }


def _name(held: Held, person: bytes) -> str:
    return held.state.people[person].name

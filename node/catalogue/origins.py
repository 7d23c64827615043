"""Reads what an adapter was made of: tables of its lorikeet.toml, and digests of the files beside
it, as version 2 of its manifest says them.

Decides what a folder may say; judges no figure in it. Reads files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from proofs.attribution.blend import NONE_BITS
from proofs.attribution.listing import MAX_LISTING_BYTES
from proofs.cocktail import MAX_COCKTAIL_BYTES, parse_cocktail
from proofs.errors import ManifestError
from proofs.hextext import from_hex
from proofs.manifest import Parent
from proofs.origin import (
    BACKGROUND_FILE,
    RULE,
    TOKENS_FILE,
    Ancestor,
    Attribution,
    DatanetVersion,
    Origin,
)

from ..errors import AdapterError

CONTRIBUTORS_FILE = "contributors.msgpack"
EVALUATION_FILE = "evaluation.msgpack"
RECIPE_FILE = "recipe.toml"
CARD_FILE = "card.md"
PARENTS_FILE = "parents.msgpack"
"""The cocktail of an adapter's parents where it was merged: it goes into the manifest itself."""
MAX_ORIGIN_BYTES: Mapping[str, int] = {
    TOKENS_FILE: 256 << 20,
    BACKGROUND_FILE: 64 << 20,
    CONTRIBUTORS_FILE: MAX_LISTING_BYTES,
    EVALUATION_FILE: 1 << 20,
    RECIPE_FILE: 64 << 10,
    CARD_FILE: 256 << 10,
}
"""The files that version 2 allows beside an adapter's own, and the most bytes of each."""

T = TypeVar("T")


def find_origin_files(folder: Path) -> tuple[Path, ...]:
    """List those of these files that a folder has."""
    return tuple(folder / name for name in MAX_ORIGIN_BYTES if (folder / name).is_file())


def read_origin(folder: Path, about: Mapping[str, Any]) -> Origin | None:
    """Return what a folder says of its origin; None where it says nothing, for version 1.

    Raises AdapterError that names the table and what is missing in it.
    """
    tables = [name for name in ("attribution", "datanets", "parents") if about.get(name)]
    files = {path.name for path in find_origin_files(folder)}
    if not tables and not files:
        return None
    if "attribution" not in tables and files & {TOKENS_FILE, BACKGROUND_FILE}:
        raise AdapterError(
            f"{folder} has {' and '.join(sorted(files & {TOKENS_FILE, BACKGROUND_FILE}))}, and its"
            " lorikeet.toml has no [attribution]; say lambda_eighths there, and what was measured"
        )
    return Origin(
        recipe=_digest(folder / RECIPE_FILE) if RECIPE_FILE in files else b"",
        datanets=tuple(_read(_datanet, one, "datanets") for one in about.get("datanets", ())),
        attribution=_attribution(folder, about["attribution"]) if "attribution" in tables else None,
        parents=_read_ancestors(about),
        evaluation=_digest(folder / EVALUATION_FILE) if EVALUATION_FILE in files else b"",
    )


def read_parents(folder: Path) -> Sequence[Parent]:
    """Return what a folder's adapter was merged of; nothing for one that was not merged. Raises
    AdapterError.
    """
    path = folder / PARENTS_FILE
    try:
        with path.open("rb") as file:
            return parse_cocktail(file.read(MAX_COCKTAIL_BYTES + 1)).parents
    except FileNotFoundError:
        return ()
    except (OSError, ManifestError) as error:
        raise AdapterError(f"{path}: {error}; merge again: lorikeet train merge") from error


def find_ancestors(folder: Path, about: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Return the digests of the manifests of what a folder's adapter was made of, as the folder
    says it: merged of, or trained on. Raises AdapterError.
    """
    merged = (parent.digest for parent in read_parents(folder))
    return tuple(dict.fromkeys((*merged, *(one.manifest for one in _read_ancestors(about)))))


def _read_ancestors(about: Mapping[str, Any]) -> tuple[Ancestor, ...]:
    return tuple(_read(_ancestor, one, "parents") for one in about.get("parents", ()))


def _attribution(folder: Path, table: Any) -> Attribution:
    path = folder / BACKGROUND_FILE
    if not path.is_file():
        raise AdapterError(
            f"{path} is missing; [attribution] in lorikeet.toml needs it, and {TOKENS_FILE}"
        )
    background = _digest(path)

    def read(said: Any) -> Attribution:
        fields = ("lambda_eighths", "r_bps", "lds_bps", "answers", "r_interval", "lds_interval")
        eighths, *measured = (said[field] for field in fields)
        row = [
            said.get("rule", RULE),
            background,
            eighths,
            said.get("none_bits", NONE_BITS),
            *measured,
        ]
        return msgspec.convert(row, Attribution)

    return _read(read, table, "attribution")


def _datanet(entry: Any) -> DatanetVersion:
    row = [from_hex(entry["id"]), entry["version"], from_hex(entry["digest"])]
    return msgspec.convert(row, DatanetVersion)


def _ancestor(entry: Any) -> Ancestor:
    return msgspec.convert([from_hex(entry["manifest"]), entry["weight_bps"]], Ancestor)


def _read(read: Callable[[Any], T], entry: Any, table: str) -> T:
    """Read one table, so that what is wrong with it is told with its name."""
    try:
        return read(entry)
    except KeyError as error:
        raise AdapterError(f"[{table}] in lorikeet.toml lacks {error.args[0]}") from error
    except (AttributeError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise AdapterError(f"[{table}] in lorikeet.toml: {error}") from error


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

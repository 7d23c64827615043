"""What the past of a home forbids its daemon, as notes in it say: a home that moved away runs no
more; one that came from a backup signs nothing in a place where it may have signed before.

    moved.json      it was moved: another home signs with its keys
    restored.json   it is a copy of a home that went on after the copy was made

Decides nothing about money; who sells, pays or aggregates asks here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from .errors import ConfigError

SERVES_NOBODY = (
    "this home came from a backup, and went on after that was made: what it signed since is not"
    " known here, so it serves nobody (a second receipt for one place costs more than it brings)."
    " It asks, collects what it earned and takes back what it deposited. To serve, make a new home"
    " with the same owner: lorikeet init --home … --set owner=…"
)
MOVED_FILE = "moved.json"
RESTORED_FILE = "restored.json"


class Moved(msgspec.Struct, frozen=True):
    """Where a home went, and when (Unix seconds)."""

    to: str
    at: int


class Restored(msgspec.Struct, frozen=True):
    """When the copy was made that a home came from, and when it was restored (Unix seconds)."""

    made_at: int
    restored_at: int


Note = TypeVar("Note", Moved, Restored)


def check_not_moved(home: Path) -> None:
    """Raise ConfigError for a home that moved away."""
    moved = _read(home / MOVED_FILE, Moved)
    if moved is not None:
        raise ConfigError(
            f"{home} was moved into {moved.to}: whoever restored that signs with its keys, and two"
            f" must not; if nobody did and nobody will, remove {home / MOVED_FILE}"
        )


def restored(home: Path) -> Restored | None:
    """Return that a home is a copy of one that went on; None where it is not."""
    return _read(home / RESTORED_FILE, Restored)


def write_note(home: Path, note: Moved | Restored) -> None:
    """Leave a note in a home."""
    name = MOVED_FILE if isinstance(note, Moved) else RESTORED_FILE
    (home / name).write_bytes(msgspec.json.encode(note))


def _read(path: Path, kind: type[Note]) -> Note | None:
    """Read a note; one that cannot be read forbids as much as one that can."""
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); look at the backup's") from error

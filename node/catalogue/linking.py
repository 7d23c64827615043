"""Puts files that lie elsewhere on this disk into an adapter's folder, without a copy.

A hard link where the file system has one: its bytes stay when the other name is deleted. Else a
symbolic link, which ends with its file. Knows no manifest and no store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def link_all(paths: Iterable[Path], written: Mapping[str, bytes], folder: Path) -> None:
    """Fill a new folder: with links to files, under their names, and with small files written anew.

    Raises OSError.
    """
    folder.mkdir(parents=True)
    for path in paths:
        link(path.resolve(), folder / path.name)
    for name, data in written.items():
        (folder / name).write_bytes(data)


def link(source: Path, place: Path) -> None:
    """Have a file at another place too. Raises OSError."""
    try:
        place.hardlink_to(source)
    except OSError:  # another file system, or one without hard links, or a file of somebody else
        place.symlink_to(source)

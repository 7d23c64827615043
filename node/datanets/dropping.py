"""Keeps files that somebody drops on the page until they are given: a browser tells no paths.

A file comes in pieces, each in its own request. Bounded in files and bytes; what nobody gave within
an hour is deleted by the next piece of another.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ..api.datanets import DroppedInfo, DropSaid
from ..errors import BadRequest

MAX_FILE_BYTES = 16 << 20
MAX_DROPPED_BYTES = 64 << 20
MAX_FILES = 64
MAX_NAME_BYTES = 120
KEPT_S = 3_600.0


class Drops:
    """The files below a folder, as `folder/DROP/NAME`. `now` in Unix seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, said: DropSaid, data: bytes, now: float) -> DroppedInfo:
        """Put a piece behind those that are here. Raises BadRequest, OSError."""
        path = self._path_of(said)
        self._forget_old(now)
        here = path.stat().st_size if path.exists() else 0
        if said.at != here:
            raise BadRequest(
                f"{said.name}: {here:,} bytes of it are here, not {said.at:,}; drop it again"
            )
        if here + len(data) > MAX_FILE_BYTES:
            raise BadRequest(
                f"{said.name} has more than {MAX_FILE_BYTES:,} bytes; give it by its path:"
                " lorikeet datanet give"
            )
        files = [one for one in self._folder.glob("*/*") if one != path]
        taken = sum(one.stat().st_size for one in files)
        if len(files) >= MAX_FILES or taken + here + len(data) > MAX_DROPPED_BYTES:
            raise BadRequest(
                f"{said.name}: at most {MAX_FILES} files and {MAX_DROPPED_BYTES:,} bytes are kept"
                " at once; give those that are here first, or wait an hour"
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
        return DroppedInfo(str(path), here + len(data))

    def forget(self, files: tuple[str, ...]) -> None:
        """Delete those of these files that were dropped; each is in a folder of its own drop."""
        for file in files:
            if Path(file).parent.parent == self._folder:
                shutil.rmtree(Path(file).parent, ignore_errors=True)

    def _path_of(self, said: DropSaid) -> Path:
        if re.fullmatch("[0-9a-f]{16}", said.drop) is None:
            raise BadRequest("a drop is called by 16 hex digits")
        name = said.name
        is_plain = name.isprintable() and not name.startswith(".") and "/" not in name
        if not name or not is_plain or len(name.encode()) > MAX_NAME_BYTES:
            raise BadRequest(f"{name[:40]!r} is no name for a file here; give it another")
        return self._folder / said.drop / name

    def _forget_old(self, now: float) -> None:
        for folder in self._folder.glob("*"):
            if all(now - one.stat().st_mtime > KEPT_S for one in (folder, *folder.iterdir())):
                shutil.rmtree(folder, ignore_errors=True)

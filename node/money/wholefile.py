"""Keeps a file whole or not there, whatever dies while it is written.

Does not know what it says.
"""

from __future__ import annotations

import os
from pathlib import Path

from proofs.errors import LedgerError


class WholeFile:
    """The file. What `write` returned from is on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        """Return what was written last; None when there is nothing."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        """Put this in the place of what is there. Raises LedgerError, and leaves that there, when
        the disk does not take it.
        """
        part = self._path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise LedgerError(f"{self._path} was not written: {error.strerror}") from error

"""Keeps a checkpoint in one file: whole or not there, whatever dies while it is written.

Does not know what a checkpoint says.
"""

from __future__ import annotations

import os
from pathlib import Path

from proofs.errors import LedgerError


class CheckpointFile:
    """The file. What `write` returned from is on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        """Return the last checkpoint; None when there is none."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        """Put this checkpoint in the place of the last. Raises LedgerError, and leaves the last one
        there, when the disk does not take it.
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
            raise LedgerError(f"no checkpoint was written to {self._path}: {error}") from error

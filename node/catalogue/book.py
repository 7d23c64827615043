"""Keeps the newest record of every name that was published here, on the disk.

A sequence never goes back: not after a restart, and not when the clock does. Signs; says nothing to
anybody, and does not know what a target holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from p2p.cid import Cid
from p2p.errors import InvalidNameRecord
from p2p.identity import Identity
from p2p.names import MAX_AHEAD_S, MAX_RECORD_BYTES, NameRecord, decode_name, encode_name, sign_name

SUFFIX = ".record"


class NameBook:
    """One file for each name, FOLDER/OWNER/NAME.record, whole and on the disk when a call returns.

    `log` hears of files that are no records; they are left alone.
    """

    def __init__(
        self, folder: Path, log: Callable[[str], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._records: dict[tuple[str, str], NameRecord] = {}
        for path in sorted(folder.glob(f"*/*{SUFFIX}")):
            try:
                record = decode_name(path.read_bytes()[: MAX_RECORD_BYTES + 1])
            except (InvalidNameRecord, OSError) as error:
                log(f"names: {path} is no record: {error}; remove it and publish again")
                continue
            self._records[record.owner, record.name] = record

    def find(self, owner: str, name: str) -> NameRecord | None:
        """Return the newest record of a name, or None if it was not published here."""
        return self._records.get((owner, name))

    def records(self) -> list[NameRecord]:
        """List the newest record of every name."""
        return list(self._records.values())

    def sign(
        self, creator: Identity, name: str, target: Cid | None, *, above: int = 0
    ) -> NameRecord:
        """Sign what a name means from now on: later than what was signed here, and than `above`.

        What others would not believe, because a clock ran wild, counts for nothing.
        """
        now = int(self._clock())
        last = self._records.get((creator.peer_id, name))
        earlier = [above] if last is None else [above, last.sequence]
        believed = [sequence + 1 for sequence in earlier if sequence <= now + MAX_AHEAD_S]
        record = sign_name(creator, name, max([now, *believed]), target)
        self._keep(record)
        return record

    def adopt(self, record: NameRecord) -> None:
        """Keep a record that the same key signed elsewhere, unless a newer one is here."""
        known = self.find(record.owner, record.name)
        if known is None or known.sequence < record.sequence:
            self._keep(record)

    def _keep(self, record: NameRecord) -> None:
        path = self._folder / record.owner / f"{record.name}{SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, encode_name(record))
        self._records[record.owner, record.name] = record


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file: after a crash the old bytes stand there or the new ones."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

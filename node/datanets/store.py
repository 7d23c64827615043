"""Keeps one datanet on the disk: its log, and the texts of its contributions.

    FOLDER/log               rows one after the other: length, registration, length, entry
    FOLDER/texts/<digest>/   text, report and sketch of a contribution, whole or not there
    FOLDER/giving/<digest>   what is claimed here and not given yet

What `append` returned from is on the disk. A row that a crash or a full disk cut short was told to
nobody, and is cut off; so is a text whose contribution got no place. Decides nothing about what may
stand in a log.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from p2p.blocks.draft import Draft, Layout
from p2p.blocks.store import BlockStore
from proofs.datanet.entries import MAX_REGISTRATION_BYTES, MAX_VERSION_BYTES, Contribution

from ..catalogue.book import write_whole

LOG = "log"
TEXTS = "texts"
GIVING = "giving"
TEXT = "text"
REPORT = "report"
SKETCH = "sketch"
MAX_DRAFTS = 16  # of texts that nobody is bringing now; of 18 MiB each at most
_LENGTH_BYTES = 4

Row = tuple[bytes, bytes]


class LogFile:
    """The rows of one log, in order. One task writes; `read` may run beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts: list[int] = []
        self._end = 0

    @classmethod
    def create(cls, path: Path, first: Row) -> LogFile:
        """Begin a log; it is there with its first row, or not at all. OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _encode(first))
        return cls(path)

    def __len__(self) -> int:
        return len(self._starts)

    def load(self) -> Iterator[Row]:
        """Yield every whole row, and cut off what a crash left behind the last. OSError."""
        with self._path.open("rb") as file:
            while row := _read(file):
                self._starts.append(self._end)
                self._end = file.tell()
                yield row
        self._cut()

    def append(self, row: Row) -> None:
        """Write a row; it is on the disk when this returns. OSError, and nothing has changed."""
        data = _encode(row)
        file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(file, self._end)  # what a failed write left behind, if that failed too
            view = memoryview(data)
            while view:
                view = view[os.pwrite(file, view, self._end + len(data) - len(view)) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, self._end)
            raise
        finally:
            os.close(file)
        self._starts.append(self._end)
        self._end += len(data)

    def read(self, first: int, count: int, max_bytes: int) -> list[Row]:
        """Return rows from a place on, as many as have `max_bytes` together. OSError."""
        if not 0 <= first < len(self._starts):
            return []
        rows: list[Row] = []
        size = 0
        with self._path.open("rb") as file:
            file.seek(self._starts[first])
            for _ in range(min(count, len(self._starts) - first)):
                row = _read(file)
                if row is None or (rows and size + len(row[0]) + len(row[1]) > max_bytes):
                    break
                size += len(row[0]) + len(row[1])
                rows.append(row)
        return rows

    def registrations(self) -> Iterator[bytes]:
        """Yield the registrations, the newest first. OSError."""
        with self._path.open("rb") as file:
            for start in reversed(self._starts[:]):
                file.seek(start)
                yield _read_part(file, MAX_REGISTRATION_BYTES) or b""

    def _cut(self) -> None:
        if self._path.stat().st_size > self._end:
            os.truncate(self._path, self._end)


class Texts:
    """The texts of one datanet's contributions, given to others out of their files."""

    def __init__(self, folder: Path, store: BlockStore) -> None:
        self._folder = folder
        self._store = store

    def restore(
        self, upheld: Collection[bytes], contribution: Callable[[bytes], Contribution]
    ) -> None:
        """Give out again what lies here of these contributions; the rest goes. OSError."""
        self._folder.mkdir(exist_ok=True)
        names = {digest.hex() for digest in upheld}
        for path in self._folder.iterdir():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)
        for digest in upheld:
            if self.has(digest):
                self._store.adopt(layout(self._place(digest), contribution(digest)))

    def has(self, digest: bytes) -> bool:
        """Return whether a contribution's text is here."""
        return self._place(digest).is_dir()

    def open_draft(self, digest: bytes, entry: Contribution, others: Collection[bytes]) -> Draft:
        """Begin, or go on with, the files of a contribution. Of drafts that are not among the
        `others` being brought now, the oldest beyond MAX_DRAFTS go. OSError.
        """
        kept = {self._draft(one).name for one in (digest, *others)}
        idle = [path for path in self._folder.glob(".*") if path.name not in kept]
        for path in sorted(idle, key=_age)[:-MAX_DRAFTS]:
            shutil.rmtree(path, ignore_errors=True)
        return Draft(layout(self._draft(digest), entry))

    def finish(self, digest: bytes, entry: Contribution) -> None:
        """Have a whole draft be the text, on the disk when this returns. OSError."""
        draft = self._draft(digest)
        for path in draft.iterdir():
            _flush(path)
        _flush(draft)
        draft.rename(self._place(digest))
        _flush(self._folder)
        self._store.adopt(layout(self._place(digest), entry))

    def write(self, digest: bytes, entry: Contribution, files: Mapping[str, bytes]) -> None:
        """Keep a text that was made here. OSError."""
        if self.has(digest):
            return
        draft = self._draft(digest)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            for name, data in files.items():
                (draft / name).write_bytes(data)
            self.finish(digest, entry)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def drop(self, digest: bytes) -> None:
        """Delete a text, and give it to nobody any more; whole, or at the next start."""
        self._store.forget(self._place(digest))
        shutil.rmtree(self._draft(digest), ignore_errors=True)
        with suppress(OSError):  # so no half of it is taken for a text
            self._place(digest).rename(self._draft(digest))
        shutil.rmtree(self._draft(digest), ignore_errors=True)
        shutil.rmtree(self._place(digest), ignore_errors=True)

    def forget_all(self) -> None:
        """Give nothing to anybody any more; deletes nothing."""
        self._store.forget_under(self._folder)

    def read(self, digest: bytes) -> bytes:
        """Return a text that is here. OSError."""
        return (self._place(digest) / TEXT).read_bytes()

    def open_text(self, digest: bytes) -> BinaryIO:
        """Open a text that is here, or its draft. OSError."""
        place = self._place(digest) if self.has(digest) else self._draft(digest)
        return (place / TEXT).open("rb")

    def path(self, digest: bytes, name: str) -> Path:
        """Return where a file of a contribution lies, or would."""
        return self._place(digest) / name

    def _place(self, digest: bytes) -> Path:
        return self._folder / digest.hex()

    def _draft(self, digest: bytes) -> Path:
        return self._folder / f".{digest.hex()}"


def layout(folder: Path, entry: Contribution) -> Layout:
    """Return the files of a contribution in a folder, and the blocks that they are cut into."""
    files: dict[Path, Sequence[tuple[bytes, int]]] = {
        folder / TEXT: entry.blocks,
        folder / REPORT: [entry.report],
    }
    return files | ({} if entry.sketch is None else {folder / SKETCH: [entry.sketch]})


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # it was finished meanwhile
        return 0.0


def _encode(row: Row) -> bytes:
    return b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in row)


def _read(file: BinaryIO) -> Row | None:
    registration = _read_part(file, MAX_REGISTRATION_BYTES)
    entry = None if registration is None else _read_part(file, MAX_VERSION_BYTES)
    return None if registration is None or entry is None else (registration, entry)


def _read_part(file: BinaryIO, max_bytes: int) -> bytes | None:
    """Return a part, or None where the file ends before it does."""
    head = file.read(_LENGTH_BYTES)
    length = int.from_bytes(head, "big")
    if len(head) < _LENGTH_BYTES or not 0 < length <= max_bytes:
        return None
    data = file.read(length)
    return data if len(data) == length else None


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)

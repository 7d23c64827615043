"""Copies a daemon's home into one file and back: `lorikeet backup`, `move` and `restore`.

    FILE    a tar: the files of the home, then index.json with the size and sha-256 of each

The ledger is copied as it is at one moment, also while its daemon writes; every other file is
written whole, or by appending, so that a part of it is a whole older one. What can be made or
fetched again is left out. A file is believed when its checksum is right, and put where its name
says only if that lies in the home.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from proofs.chain.keystore import encrypt_key, is_keystore
from proofs.errors import LedgerError
from proofs.ledger import Ledger, copy_ledger
from proofs.signing import address_of

from .config import Config, load_config
from .errors import NodeError
from .keys import load_keys
from .lives import MOVED_FILE, Restored, write_note
from .money.book import ChannelBook

VERSION = 1
INDEX = "index.json"
LEDGER = "ledger.sqlite"
MADE_AGAIN = frozenset({"attribution", "bases", "dropped", "epochs", "tokenizer.json"})
OF_A_PROCESS = frozenset(
    {
        "daemon.json",
        "engine.log",
        "engine.log.1",
        "lock",
        "log",
        "log.1",
        "out.log",
        "traces",
        "traces.1",
        MOVED_FILE,
        INDEX,
    }
)
ADAPTERS = frozenset({"adapters", "blocks"})
READ_BYTES = 1 << 20
MAX_INDEX_BYTES = 64 << 20
MAX_KEY_BYTES = 1 << 16
PRIVATE_FILE = 0o600
SAFE_NAME = re.compile(r"[^/\0]+(/[^/\0]+)*")


class BackupFailed(NodeError):
    """A backup that could not be made, or is not believed; the message says the mend."""


class Entry(msgspec.Struct, frozen=True):
    """One file of a backup; `sha256` in hex."""

    size: int
    sha256: str


class Index(msgspec.Struct, frozen=True):
    """What a backup says of itself. `is_last`: the home signed nothing after it was made.

    `outside`: files that lay elsewhere, by links, and are not in it.
    """

    version: int
    made_at: int
    is_last: bool
    files: dict[str, Entry]
    outside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What goes into a backup. With a `password`, bare keys are encrypted with it."""

    is_last: bool = False
    with_adapters: bool = True
    password: str | None = None


def back_up(config: Config, file: Path, wanted: Wanted) -> Index:
    """Write a home into a file that is not there yet; it is there whole, or not at all.

    Raises BackupFailed.
    """
    if file.exists():
        raise BackupFailed(f"{file} is there already; name another, or remove it")
    if file.resolve().is_relative_to(config.home.resolve()):
        raise BackupFailed(f"{file} lies in the home that it would hold; name one elsewhere")
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with open(descriptor, "wb") as out:
            index = _write(config, out, wanted)
            out.flush()
            os.fsync(out.fileno())
        draft.rename(file)
    except (OSError, LedgerError) as error:
        raise BackupFailed(f"no backup was made: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return index


def _write(config: Config, out: io.BufferedWriter, wanted: Wanted) -> Index:
    files: dict[str, Entry] = {}
    outside: list[str] = []
    secrets = config.key_files
    keys = {secrets.operator, secrets.payer, secrets.aggregator}
    # A ledger that is behind the rest is worse than one that is ahead: so it is copied last.
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _paths(config.home, wanted, outside):
            name = path.relative_to(config.home).as_posix()
            if path == secrets.password:
                continue  # it opens the keys beside it
            if path in keys:
                data = _key_bytes(path, wanted.password)
                files[name] = _add(tar, name, io.BytesIO(data), len(data))
            elif name != LEDGER:
                with path.open("rb") as file:
                    files[name] = _add(tar, name, file, os.fstat(file.fileno()).st_size)
        if config.ledger_path.exists():
            with tempfile.TemporaryDirectory(prefix=".backup-", dir=config.home) as folder:
                copy = Path(folder) / LEDGER
                copy_ledger(config.ledger_path, copy)
                with copy.open("rb") as file:
                    files[LEDGER] = _add(tar, LEDGER, file, copy.stat().st_size)
        made_at = int(time.time())
        index = Index(VERSION, made_at, wanted.is_last, files, tuple(outside))
        data = msgspec.json.encode(index)
        _add(tar, INDEX, io.BytesIO(data), len(data))
    return index


def _paths(home: Path, wanted: Wanted, outside: list[str]) -> Iterator[Path]:
    """Yield the files that belong into a backup; note those that lie elsewhere."""
    left_out = MADE_AGAIN | OF_A_PROCESS | (frozenset() if wanted.with_adapters else ADAPTERS)
    for folder, folders, names in os.walk(home):
        here = Path(folder)
        refused = left_out if here == home else frozenset()
        links = [one for one in (*folders, *names) if (here / one).is_symlink()]
        outside += [(here / one).relative_to(home).as_posix() for one in sorted(links)]
        # what begins with a dot is being written
        kept = {one for one in (*folders, *names) if one[0] != "." and one not in links}
        folders[:] = sorted(one for one in folders if one in kept - refused)
        for name in sorted(kept.intersection(names)):
            if not _is_left_out(name, refused) and (here / name).is_file():
                yield here / name


def _is_left_out(name: str, left_out: frozenset[str]) -> bool:
    return name in left_out or name.startswith(f"{LEDGER}-")


def _key_bytes(path: Path, password: str | None) -> bytes:
    text = path.read_text(encoding="utf-8")
    if password is None or is_keystore(text):
        return text.encode()
    return f"{encrypt_key(bytes.fromhex(text.strip()), password)}\n".encode()


def _add(tar: tarfile.TarFile, name: str, source: io.BufferedIOBase, size: int) -> Entry:
    """Put so many bytes of a file into the tar; what is appended meanwhile is not in it."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = PRIVATE_FILE
    info.mtime = int(time.time())
    hashing = _Hashing(source, size)
    tar.addfile(info, hashing)  # type: ignore[arg-type]  # it reads, and nothing else
    return Entry(size, hashing.digest)


class _Hashing:
    """Reads a file once, for the tar and for its checksum."""

    def __init__(self, source: io.BufferedIOBase, size: int) -> None:
        self._source = source
        self._left = size
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Return the next bytes; OSError where the file has become shorter."""
        data = self._source.read(min(size, self._left))
        if not data and self._left:
            raise OSError("a file became shorter while it was copied; try again")
        self._left -= len(data)
        self._hash.update(data)
        return data

    @property
    def digest(self) -> str:
        """The sha-256 of what was read, in hex."""
        return self._hash.hexdigest()


# --- back ---


def restore(file: Path, home: Path, *, now: int) -> Index:
    """Make a home out of a backup; it is there whole, or not at all. Raises BackupFailed.

    A copy of a home that went on afterwards gets a note of that (lives.py), and pays from none of
    its channels any more: what it promised in them later is not known.
    """
    if home.exists() and any(home.iterdir()):
        raise BackupFailed(f"{home} is not empty; name another --home: nothing is overwritten")
    home.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=home.parent))
    try:
        index = _unpack(file, draft)
        if not index.is_last:
            _close_channels(load_config(draft, {}))
            write_note(draft, Restored(index.made_at, now))
        if home.exists():
            home.rmdir()
        draft.rename(home)
    except (OSError, tarfile.TarError, LedgerError) as error:
        raise BackupFailed(f"{file} was not restored: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return index


def check_backup(file: Path) -> Index:
    """Read a backup to its end and return its index. Raises BackupFailed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _unpack(file, Path(folder), keep=False)
        except (OSError, tarfile.TarError) as error:
            raise BackupFailed(f"{file} is no whole backup: {error}") from error


def _unpack(file: Path, folder: Path, *, keep: bool = True) -> Index:
    found: dict[str, Entry] = {}
    index: Index | None = None
    with tarfile.open(file, mode="r:") as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isreg() else None
            if source is None or not _is_safe(member.name):
                raise BackupFailed(f"{file} holds {member.name!r}, which no backup does")
            if member.name == INDEX:
                index = _read_index(file, source.read(MAX_INDEX_BYTES + 1))
            else:
                found[member.name] = _take(source, folder / member.name if keep else None)
    if index is None or index.files != found:
        differing = sorted(_differing(found, {} if index is None else index.files))
        raise BackupFailed(
            f"{file} is damaged or was cut off: {', '.join(differing[:5]) or INDEX}; use another"
        )
    return index


def _differing(one: dict[str, Entry], other: dict[str, Entry]) -> set[str]:
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


def _is_safe(name: str) -> bool:
    """Whether a name lies in the home, and is none that a home gets otherwise."""
    parts = PurePosixPath(name).parts
    return bool(SAFE_NAME.fullmatch(name)) and ".." not in parts and name != MOVED_FILE


def _read_index(file: Path, data: bytes) -> Index:
    try:
        if len(data) > MAX_INDEX_BYTES:
            raise BackupFailed(f"{file} has an index of more than {MAX_INDEX_BYTES} bytes")
        index = msgspec.json.decode(data, type=Index)
    except msgspec.DecodeError as error:
        raise BackupFailed(f"{file} has no index that can be read: {error}") from error
    if index.version != VERSION:
        raise BackupFailed(
            f"{file} is of version {index.version}; this program reads {VERSION}: use the version"
            " that made it"
        )
    return index


def _take(source: IO[bytes], path: Path | None) -> Entry:
    """Write a file where it belongs, or nowhere; return its size and checksum."""
    hashed = hashlib.sha256()
    size = 0
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = os.devnull if path is None else path
    flags = os.O_WRONLY | (0 if path is None else os.O_CREAT | os.O_EXCL)
    with open(os.open(target, flags, PRIVATE_FILE), "wb") as out:
        while data := source.read(READ_BYTES):
            out.write(data)
            hashed.update(data)
            size += len(data)
        if path is not None:
            out.flush()
            os.fsync(out.fileno())
    return Entry(size, hashed.hexdigest())


def _close_channels(config: Config) -> None:
    """Have nothing promised any more in the channels that this home pays from."""
    if not config.ledger_path.exists():
        return
    own = address_of(load_keys(config.key_files).operator.public_key)
    ledger = Ledger(config.ledger_path)
    try:
        book = ChannelBook(ledger)
        with ledger.transaction():
            for row in book.all():
                if row.operator != own:
                    funds = msgspec.structs.replace(row.funds, is_closed=True)
                    book.save(msgspec.structs.replace(row, funds=funds))
    finally:
        ledger.close()

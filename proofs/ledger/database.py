"""Opens one SQLite file: its schema, and transactions that are on the disk when they end.

Knows tables, not what they mean. A transaction that cannot be written, because the disk is full or
fails, raises LedgerError and has done nothing; whoever asked may try again.

Several threads may share a Ledger, several processes a file: writers queue, each transaction begins
by taking the write lock.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import LedgerConflict, LedgerError, LedgerFull

SCHEMA_VERSION = 5
BUSY_DEADLINE_MS = 10_000
WAL_RETRY_S = 0.01

_SCHEMA = """
CREATE TABLE channel (
    id BLOB PRIMARY KEY,
    operator BLOB NOT NULL,             -- who is paid
    body BLOB NOT NULL
);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,        -- sha-256 of the receipt's body
    receipt BLOB NOT NULL,              -- signed
    envelope BLOB,                      -- what is sent; NULL: the other side sends it
    state INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,   -- how often it was handed out for sending
    promise BLOB,
    deadline INTEGER,                   -- of the promise, Unix seconds
    epoch INTEGER
);
CREATE INDEX outbox_state ON outbox (state, tries, id);
CREATE INDEX outbox_epoch ON outbox (epoch) WHERE epoch IS NOT NULL;
CREATE INDEX outbox_side ON outbox (envelope IS NULL, state);
CREATE TABLE accepted (
    id INTEGER PRIMARY KEY,
    channel BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    digest BLOB NOT NULL,               -- sha-256 of the receipt's body
    envelope BLOB,                      -- NULL: only the batch of its epoch brought it here
    deadline INTEGER NOT NULL,          -- of the promise, Unix seconds
    epoch INTEGER,                      -- NULL: not sealed yet
    UNIQUE (channel, sequence)
);
CREATE INDEX accepted_unsealed ON accepted (id) WHERE epoch IS NULL;
CREATE INDEX accepted_epoch ON accepted (epoch) WHERE epoch IS NOT NULL;
CREATE TABLE manifest (
    digest BLOB PRIMARY KEY,
    data BLOB NOT NULL
);
CREATE TABLE epoch (
    epoch INTEGER PRIMARY KEY,
    header BLOB NOT NULL,               -- its ABI encoding
    batch BLOB NOT NULL
);
CREATE TABLE unsealed_batch (           -- of epochs that were taken back
    header BLOB PRIMARY KEY,
    batch BLOB NOT NULL
);
CREATE TABLE checkpoint (
    epoch INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);
CREATE TABLE evidence (
    channel BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    first BLOB NOT NULL,
    second BLOB NOT NULL,
    PRIMARY KEY (channel, sequence)
);
CREATE TABLE post_attempt (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    header BLOB NOT NULL,               -- the hash of the header that it posts
    nonce INTEGER NOT NULL,
    raw BLOB NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    max_fee_wei TEXT NOT NULL,
    tip_wei TEXT NOT NULL
);
CREATE INDEX post_attempt_epoch ON post_attempt (epoch, id);
CREATE TABLE posted (
    epoch INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    block INTEGER NOT NULL
)
"""

_MIGRATIONS = {
    4: "CREATE INDEX outbox_side ON outbox (envelope IS NULL, state)",
}
"""What brings a file of a version to the next; one of each lies in tests/proofs/ledgers."""


class Ledger:
    """An open file; it closes with `close`, or when nobody holds it any more.

    Everything else in this package is a view of it.
    """

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.RLock()
        _make_private(path)
        with _naming_faults():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._close = weakref.finalize(self, self._db.close)
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_DEADLINE_MS}")
            self._write_ahead()
            self._db.execute("PRAGMA synchronous = FULL")
            with self.transaction():
                self._create()

    def _write_ahead(self) -> None:
        """Switch the file to WAL.

        SQLite refuses at once while another process does the same, whatever the busy timeout; so
        ask again.
        """
        until = time.monotonic() + BUSY_DEADLINE_MS / 1000
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if time.monotonic() > until:
                    raise LedgerError(
                        "another process holds the ledger for more than"
                        f" {BUSY_DEADLINE_MS / 1000:.0f} s: {error}; end it"
                    ) from error
                time.sleep(WAL_RETRY_S)

    def _create(self) -> None:
        """Bring the file to our schema. Other programs' tables in the same file are left alone."""
        self._db.execute("CREATE TABLE IF NOT EXISTS ledger_schema (version INTEGER NOT NULL)")
        found = [version for (version,) in self._db.execute("SELECT version FROM ledger_schema")]
        if not found:
            for statement in _SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO ledger_schema VALUES (?)", (SCHEMA_VERSION,))
        else:
            self._migrate(found[0])

    def _migrate(self, version: int) -> None:
        """Bring an older file to our schema, within the transaction that opens it."""
        while version in _MIGRATIONS:
            for statement in _MIGRATIONS[version].split(";\n"):
                self._db.execute(statement)
            version += 1
            self._db.execute("UPDATE ledger_schema SET version = ?", (version,))
        if version != SCHEMA_VERSION:
            raise LedgerError(
                f"the ledger has schema {version}; this program reads {SCHEMA_VERSION}, and what"
                f" {min(_MIGRATIONS)} and later wrote: use the version that wrote it"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all writes inside or none.

        Raises LedgerConflict when one contradicts what is there, LedgerFull when the disk is full.
        A transaction inside another is part of it: it is on the disk when the outer one ends.
        """
        with self._lock:
            if self._db.in_transaction:  # of this thread, since it holds the lock
                yield
                return
            with _naming_faults():
                # IMMEDIATE: one that read first and then wrote could fail half-way for the lock.
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:  # whatever ends the block, half of it must not stay
                    self._roll_back()
                    raise

    def _roll_back(self) -> None:
        # SQLite has done it already where the disk failed in the middle.
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def write(self, statement: str, *values: object) -> int:
        """Run one statement inside a transaction; return how many rows it changed."""
        with self._lock, _naming_faults():
            assert self._db.in_transaction, "write inside a transaction"
            return self._db.execute(statement, values).rowcount

    def read(self, query: str, *values: object) -> list[Sequence[Any]]:
        """Return all rows of a query."""
        with self._lock, _naming_faults():
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()


def copy_ledger(source: Path, target: Path) -> None:
    """Copy a ledger as it is at one moment, also while its daemon writes. LedgerError."""
    _make_private(target)
    with _naming_faults():
        reader = sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)
        writer = sqlite3.connect(target)
        try:
            reader.execute(f"PRAGMA busy_timeout = {BUSY_DEADLINE_MS}")
            reader.backup(writer)
            writer.execute("PRAGMA journal_mode = DELETE")  # one file, and nothing beside it
            (verdict,) = writer.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            writer.close()
            reader.close()
    if verdict != "ok":
        raise LedgerError(f"the ledger {source} is damaged: {verdict}")


def _make_private(path: Path | str) -> None:
    """Make the file, or take it, so that nobody else may read it; SQLite's files beside it get its
    mode.
    """
    if str(path) == ":memory:":
        return
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        os.chmod(path, 0o600)
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be opened: {error.strerror}") from error


@contextmanager
def _naming_faults() -> Iterator[None]:
    """Raise what SQLite raises as an error of ours that says what to do."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise LedgerConflict(
            f"somebody else wrote something different there ({error}); is a second process at work?"
        ) from error
    except sqlite3.DatabaseError as error:
        # Python 3.11 names the code; it has the error's kind in its lowest byte.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise LedgerFull(
                f"the disk is full ({error}); nothing is lost: free some space"
            ) from error
        raise LedgerError(f"the ledger cannot be read or written now: {error}") from error

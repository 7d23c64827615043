"""Opens one SQLite file: its schema, and transactions that are on the disk when they end.

Knows tables, not what they mean.

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

from ..errors import LedgerConflict, LedgerError

SCHEMA_VERSION = 2
BUSY_DEADLINE_MS = 10_000
WAL_RETRY_S = 0.01

# Version 1 left this table to whoever wrote channels, so a file of that version may have it
# already.
_CHANNEL = """
CREATE TABLE IF NOT EXISTS channel (
    id BLOB PRIMARY KEY,
    operator BLOB NOT NULL,             -- who is paid
    body BLOB NOT NULL
)
"""
_SCHEMA = """
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,        -- sha-256 of the receipt's body
    receipt BLOB NOT NULL,              -- signed
    envelope BLOB,                      -- what is sent; NULL: the other side sends it
    state INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,   -- how often it was handed out for sending
    promise BLOB,
    epoch INTEGER
);
CREATE INDEX outbox_state ON outbox (state, tries, id);
CREATE TABLE accepted (
    id INTEGER PRIMARY KEY,
    channel BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    envelope BLOB NOT NULL,
    epoch INTEGER,                      -- NULL: not sealed yet
    UNIQUE (channel, sequence)
);
CREATE INDEX accepted_unsealed ON accepted (id) WHERE epoch IS NULL;
CREATE TABLE epoch (
    epoch INTEGER PRIMARY KEY,
    header BLOB NOT NULL,               -- its ABI encoding
    batch BLOB NOT NULL
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
);
"""


class Ledger:
    """An open file; it closes with `close`, or when nobody holds it any more.

    Everything else in this package is a view of it.
    """

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.RLock()
        _make_private(path)
        with _named():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._close = weakref.finalize(self, self._db.close)
        with _named():
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_DEADLINE_MS}")
            self._write_ahead()
            self._db.execute("PRAGMA synchronous = FULL")
        with self.transaction(), _named():
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
                if "locked" not in str(error):
                    raise
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
            self._db.execute(_CHANNEL)
            self._db.execute("INSERT INTO ledger_schema VALUES (?)", (SCHEMA_VERSION,))
        elif found == [1]:
            self._db.execute(_CHANNEL)
            self._db.execute("UPDATE ledger_schema SET version = ?", (SCHEMA_VERSION,))
        elif found != [SCHEMA_VERSION]:
            raise LedgerError(
                f"the ledger has schema {found[0]}; this program reads {SCHEMA_VERSION}: use the"
                " version that wrote it"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all writes inside or none.

        Raises LedgerConflict when one contradicts what is there. A transaction inside another is
        part of it: it is on the disk when the outer one ends.
        """
        with self._lock:
            if self._db.in_transaction:  # of this thread, since it holds the lock
                yield
                return
            # IMMEDIATE: one that read first and then wrote could fail half-way for the lock.
            with _named():
                self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                with _named():
                    self._db.execute("COMMIT")
            except BaseException as error:  # whatever ends the block, half of it must not stay
                self._roll_back()
                if isinstance(error, sqlite3.IntegrityError):
                    raise LedgerConflict(
                        f"somebody else wrote something different there ({error}); is a second"
                        " process at work?"
                    ) from error
                raise

    def _roll_back(self) -> None:
        """Undo what was begun. A disk that is full has often undone it already."""
        if self._db.in_transaction:
            with _named():
                self._db.execute("ROLLBACK")

    def write(self, statement: str, *values: object) -> int:
        """Run one statement inside a transaction; return how many rows it changed."""
        with self._lock:
            assert self._db.in_transaction, "write inside a transaction"
            with _named():
                return self._db.execute(statement, values).rowcount

    def read(self, query: str, *values: object) -> list[Sequence[Any]]:
        """Return all rows of a query."""
        with self._lock, _named():
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()


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
def _named() -> Iterator[None]:
    """Give what SQLite and the disk refuse our name. A contradiction keeps SQLite's: the
    transaction around it says whose it is.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        raise LedgerError(
            f"the ledger cannot be read or written now: {error}; nothing was changed. Look for"
            " space on its disk, and whether the file may be written"
        ) from error

"""A process that posts one header and dies where it is told: `python -m tests.proofs.chain.post_once ARGUMENTS`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import sys
from dataclasses import astuple
from pathlib import Path

from proofs.chain.client import ChainClient, open_client
from proofs.chain.poster import PostAttempt, Poster
from proofs.epoch import EpochHeader

DEATHS = ("before journal", "journalled", "sent", "mined")


class SqliteJournal:
    """The journal at its plainest."""

    def __init__(self, path: Path) -> None:
        self.rows = sqlite3.connect(path, isolation_level=None)
        self.rows.execute("pragma synchronous = full")
        self.rows.execute("create table if not exists attempt (epoch int, nonce int, raw blob, hash blob, max_fee text, tip text)")
        self.rows.execute("create table if not exists confirmed (epoch int primary key, hash blob, block int)")

    def attempts(self, epoch: int) -> list[PostAttempt]:
        rows = self.rows.execute("select nonce, raw, hash, max_fee, tip from attempt where epoch = ? order by rowid", (epoch,))
        return [PostAttempt(nonce, raw, digest, int(fee), int(tip)) for nonce, raw, digest, fee, tip in rows]

    def add_attempt(self, epoch: int, attempt: PostAttempt) -> None:
        nonce, raw, digest, fee, tip = astuple(attempt)
        self.rows.execute("insert into attempt values (?, ?, ?, ?, ?, ?)", (epoch, nonce, raw, digest, str(fee), str(tip)))

    def confirm(self, epoch: int, transaction: bytes, block: int) -> None:
        self.rows.execute("insert or replace into confirmed values (?, ?, ?)", (epoch, transaction, block))

    def confirmed(self) -> list[int]:
        return [row[0] for row in self.rows.execute("select epoch from confirmed order by epoch")]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(poster: Poster, journal: SqliteJournal, client: ChainClient, where: str) -> None:
    """Make the process die at one place of the poster's way."""
    add, broadcast = journal.add_attempt, client.wallet.broadcast

    def add_then_die(epoch: int, attempt: PostAttempt) -> None:
        if where == "before journal":
            die()
        add(epoch, attempt)
        if where == "journalled":
            die()

    def send_then_die(raw: bytes) -> None:
        broadcast(raw)
        if where == "sent":
            die()

    journal.add_attempt = add_then_die
    client.wallet.broadcast = send_then_die
    if where == "mined":
        journal.confirm = lambda *_: die()


def main() -> None:
    url, settlement, path, where, header = sys.argv[1:]
    fields = {name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in json.loads(header).items()}
    client = open_client(url, bytes.fromhex(settlement), hashlib.sha256(b"aggregator").digest())
    journal = SqliteJournal(Path(path))
    poster = Poster(client, journal)
    arm(poster, journal, client, where)
    poster.post(EpochHeader(**fields), deadline_s=20)


if __name__ == "__main__":
    main()

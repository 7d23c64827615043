"""A process that posts one header and dies where it is told: `python -m
tests.proofs.chain.post_once ARGUMENTS`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys

from proofs.chain.client import ChainClient, open_client
from proofs.chain.poster import Poster
from proofs.epoch import EpochHeader
from proofs.ledger import Ledger, PostAttempt, PostJournal

DEATHS = ("before journal", "journalled", "sent", "mined")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(poster: Poster, journal: PostJournal, client: ChainClient, where: str) -> None:
    """Make the process die at one place of the poster's way."""
    add = journal.add_attempt
    broadcast = client.wallet.broadcast

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
    fields = {
        name: bytes.fromhex(value) if isinstance(value, str) else value
        for name, value in json.loads(header).items()
    }
    client = open_client(url, bytes.fromhex(settlement), hashlib.sha256(b"aggregator").digest())
    journal = PostJournal(Ledger(path))
    poster = Poster(client, journal)
    arm(poster, journal, client, where)
    poster.post(EpochHeader(**fields), deadline_s=60)


if __name__ == "__main__":
    main()

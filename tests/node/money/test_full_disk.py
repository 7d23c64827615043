"""A daemon whose disk is full, at whatever write: it says so, lives, and works again when there is
space, and no receipt is left out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from node.daemon import NodeDaemon
from node.errors import NodeError
from node.money.book import Keeper
from node.wire import infer as wire
from node.wire.channels import ChannelRow
from node.wire.client_session import ClientSession
from p2p.blocks.store import BlockStore
from proofs.ledger import Ledger, Outbox
from proofs.receipt import decode_body
from tests.node.networks import ask, open_lab, until

BALLAST = "INSERT INTO evidence VALUES (x'00', 1, zeroblob(1000000), x'00')"
WRITES = 5  # of an answer, on either side: vouchers, the draft, both signatures


def full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


WRITE = os.write


def full_but_for_sockets(descriptor: int, data: bytes) -> int:
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return WRITE(descriptor, data)
    return full()


async def test_a_node_whose_disk_is_full_says_so_lives_and_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway")) as lab:
        async with (
            lab.daemon("volunteer") as volunteer,
            lab.daemon("gateway", role="gateway") as gateway,
        ):
            await ask(gateway)
            assert volunteer.money is not None
            ledger = volunteer.money._books.ledger
            (pages,) = ledger.read("PRAGMA page_count")[0]
            ledger.read(f"PRAGMA max_page_count = {pages}")
            with monkeypatch.context() as patched:
                patched.setattr(os, "write", full_but_for_sockets)
                patched.setattr(BlockStore, "_write", full)
                for _ in range(40):
                    with suppress(NodeError):
                        await ask(gateway)
                    if "inbound" in volunteer.telemetry.troubles:
                        break
                assert "disk is full" in volunteer.telemetry.troubles["inbound"]
                volunteer.telemetry.log("a line that is lost")
                assert (await volunteer.status()).counters["log_lines_lost"]
            ledger.read(f"PRAGMA max_page_count = {2**30}")
            assert (await ask(gateway)).ended.completion_tokens == 8
            assert volunteer.telemetry.troubles == {}


@contextmanager
def full_from(keeper: Keeper, ledger: Ledger, number: int) -> Iterator[None]:
    """From the `number`th write of channels on there is no room for what is written."""
    book: Any = keeper._book
    save = book.save
    count = 0
    (pages,) = ledger.read("PRAGMA page_count")[0]

    def save_on_a_full_disk(row: ChannelRow) -> None:
        nonlocal count
        save(row)
        count += 1
        if count >= number:
            ledger.read(f"PRAGMA max_page_count = {pages}")
            ledger.write(BALLAST)

    book.save = save_on_a_full_disk
    try:
        yield
    finally:
        book.save = save
        ledger.read(f"PRAGMA max_page_count = {2**30}")


def books_of(daemon: NodeDaemon) -> tuple[Ledger, ChannelRow]:
    assert daemon.money is not None
    ledger = daemon.money._books.ledger
    (row,) = daemon.money._books.channels.all()
    return ledger, row


def watch_what_is_said(monkeypatch: pytest.MonkeyPatch, paying: Keeper, paid: Keeper) -> list[str]:
    """Which messages say of a channel what the sender's disk does not have: a kill would make it
    forget what the other side was told.
    """
    ahead: list[str] = []
    encode = wire.encode

    def noting_encode(message: wire.Message) -> bytes:
        own = paying if isinstance(message, wire.FromClient) else paid
        if own._late and not isinstance(message, wire.Refusal):
            ahead.append(type(message).__name__)
        return encode(message)

    monkeypatch.setattr(wire, "encode", noting_encode)
    return ahead


async def test_no_receipt_is_left_out_and_nothing_said_ahead_whichever_write_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway")) as lab:
        async with (
            lab.daemon("volunteer", grace_s=0.5) as volunteer,
            lab.daemon("gateway", role="gateway") as gateway,
        ):
            assert volunteer.money is not None
            assert gateway.money is not None
            till = volunteer.money.till
            purse = gateway.money.purse
            assert till is not None
            assert purse is not None
            ahead = watch_what_is_said(monkeypatch, purse._keeper, till._keeper)
            answered = [(await ask(gateway)).ended.amount]
            for daemon, side in ((volunteer, till), (gateway, purse)):
                ledger, _ = books_of(daemon)
                for number in range(1, WRITES + 1):
                    with full_from(side._keeper, ledger, number), suppress(NodeError):
                        answered.append((await ask(gateway)).ended.amount)
                    answered.append((await ask(gateway)).ended.amount)
                    till.check()
                    purse.check()

            def is_all_written() -> bool:
                till.tick()
                _, row = books_of(volunteer)
                return all(draft.is_sent for draft in row.drafts)

            await until(is_all_written)
            ledger, row = books_of(volunteer)
            entries = Outbox(ledger).newest(100)[::-1]
            receipts = [decode_body(entry.signed.body) for entry in entries]
            assert [one.sequence for one in receipts] == [*range(1, len(receipts) + 1)]
            assert sum(one.amount for one in receipts) == row.owed
            assert len(receipts) >= len(answered)
            assert ahead == []


async def test_a_client_that_never_signs_pays_though_the_disk_was_full_when_its_time_was_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway")) as lab:
        async with (
            lab.daemon("volunteer", grace_s=0.5) as volunteer,
            lab.daemon("gateway", role="gateway") as gateway,
        ):
            assert volunteer.money is not None
            assert volunteer.money.till is not None
            with monkeypatch.context() as patched:
                patched.setattr(ClientSession, "_take_done", vanish)
                with pytest.raises(NodeError, match="we have what"):
                    await ask(gateway, node=volunteer.host.peer_id)
            ledger, _ = books_of(volunteer)
            with full_from(volunteer.money.till._keeper, ledger, 1):
                await until(lambda: "till" in volunteer.telemetry.troubles)
                assert "disk is full" in volunteer.telemetry.troubles["till"]
                assert await volunteer.receipts() == []
            await until(lambda: volunteer.receipts())
            assert "till" not in volunteer.telemetry.troubles
            assert (await ask(gateway)).ended.completion_tokens == 8


def vanish(*_: object) -> None:
    raise NodeError("we have what we wanted")

"""What a daemon writes about its channels stays written: vouchers are money."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from node.money.book import ChannelBook
from node.money.wiring import run_checks
from node.telemetry import Telemetry
from node.wire.channels import ChannelRow
from proofs.ledger import Ledger, Outbox
from proofs.voucher import channel_id
from tests.processes import ending
from tests.proofs.scene import NETWORK, chain, config, signer

CONFIG = config()
ROW = ChannelRow(channel_id(CONFIG, NETWORK), signer("node").address, CONFIG)


def test_a_voucher_is_on_the_disk_when_save_returns(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert ledger.read("PRAGMA synchronous") == [(2,)], "not FULL"
    book = ChannelBook(ledger)
    book.save(ROW)
    raised = msgspec.structs.replace(ROW, voucher=77, voucher_signature=bytes(65))
    book.save(raised)
    assert ChannelBook(Ledger(tmp_path / "ledger.sqlite")).find(ROW.channel_id) == raised
    assert book.of_operator(ROW.operator) == [raised]
    assert book.all() == [raised]


def test_what_was_saved_survives_a_kill_in_mid_work(tmp_path: Path) -> None:
    """Another process reads the last row that was told of, or the one that was being written."""
    path = tmp_path / "ledger.sqlite"
    program = f"""
        import msgspec
        from pathlib import Path
        from node.money.book import ChannelBook
        from proofs.ledger import Ledger
        from tests.node.money.test_book import ROW
        book = ChannelBook(Ledger(Path({str(path)!r})))
        for amount in range(1, 100_000):
            book.save(msgspec.structs.replace(ROW, voucher=amount))
            print(amount, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        for _ in range(25):
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        told = max([told, *(int(line) for line in process.stdout if line.endswith("\n"))])
    row = ChannelBook(Ledger(path)).find(ROW.channel_id)
    assert row is not None
    assert row.voucher in (told, told + 1)


def test_a_receipt_and_its_channel_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    book = ChannelBook(ledger)
    signed = chain(1)[0].receipt.signed
    with pytest.raises(ZeroDivisionError), book.transaction():
        book.save(ROW)
        Outbox(ledger).add(signed, None)
        raise ZeroDivisionError
    assert book.all() == []
    assert Outbox(ledger).newest(1) == []
    with book.transaction():
        book.save(ROW)
        Outbox(ledger).add(signed, None)
    assert book.all() == [ROW]
    assert len(Outbox(ledger).newest(1)) == 1


async def test_a_broken_invariant_is_told_each_time_and_ends_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    def broken() -> None:
        raise AssertionError("a draft is not kept")

    held: list[int] = []
    telemetry = Telemetry(tmp_path / "log")
    with trio.move_on_after(3.5 * 3600):
        await run_checks((broken, lambda: held.append(1)), telemetry)
    assert telemetry.counters["invariants_broken"] == 3
    assert len(held) == 3
    assert "a draft is not kept" in (tmp_path / "log").read_text()
    telemetry.close()

"""What is written stays written: through a kill, beside a second process, and never backwards."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from proofs.aggregator import Accepted, Aggregator
from proofs.epoch import EpochHeader, decode_header
from proofs.errors import LedgerConflict, LedgerError, UnknownEntry
from proofs.ledger import AggregatorLedger, Ledger, Outbox, OutboxState, PostAttempt, PostJournal
from proofs.promise import make_promise
from tests.proofs.scene import NETWORK, View, chain, signer

RECEIPTS = chain(3)


def filled(ledger: Ledger) -> tuple[Outbox, list[bytes]]:
    outbox = Outbox(ledger)
    return outbox, [outbox.add(taken.receipt.signed, taken.encoded) for taken in RECEIPTS]


def test_receipt_in_the_outbox_moves_forward_only() -> None:
    outbox, (digest, *_) = filled(Ledger(":memory:"))
    assert outbox.advance(digest, OutboxState.GOSSIPED)
    assert not outbox.advance(digest, OutboxState.GOSSIPED)
    promise = make_promise(signer("aggregator"), RECEIPTS[0].receipt.encoded, NETWORK)
    assert outbox.keep_promise(digest, promise)
    assert not outbox.keep_promise(digest, promise)
    assert not outbox.advance(digest, OutboxState.QUEUED)
    assert outbox.mark_included([digest, bytes(32)], 4) == 1
    assert outbox.mark_included([digest], 5) == 0, "it stays in the epoch that took it"
    assert outbox.mark_final(3) == 0
    assert outbox.mark_final(4) == 1
    entry = outbox.find(digest)
    assert entry is not None
    assert (entry.state, entry.epoch, entry.promise) == (OutboxState.FINAL, 4, promise)
    assert entry.signed == RECEIPTS[0].receipt.signed


def test_adding_again_does_not_send_a_receipt_back_to_the_queue() -> None:
    outbox, digests = filled(Ledger(":memory:"))
    outbox.advance(digests[0], OutboxState.PROMISED)
    outbox.add(RECEIPTS[0].receipt.signed, RECEIPTS[0].encoded)
    assert [entry.digest for entry in outbox.unpromised(10)] == digests[1:]
    assert [entry.digest for entry in outbox.newest(2)] == digests[:0:-1]


def test_receipt_that_nobody_takes_does_not_hold_up_the_others() -> None:
    outbox, digests = filled(Ledger(":memory:"))
    handed_out = [[entry.digest for entry in outbox.unpromised(2)] for _ in range(3)]
    assert handed_out == [digests[:2], [digests[2], digests[0]], [digests[1], digests[2]]]


def test_clients_copy_is_listed_and_never_sent() -> None:
    outbox = Outbox(Ledger(":memory:"))
    digest = outbox.add(RECEIPTS[0].receipt.signed, None)
    assert outbox.unpromised(10) == []
    assert [entry.digest for entry in outbox.newest(10)] == [digest]


def test_what_is_not_there_cannot_move() -> None:
    with pytest.raises(UnknownEntry):
        Outbox(Ledger(":memory:")).advance(bytes(32), OutboxState.GOSSIPED)


def test_transaction_is_all_or_nothing() -> None:
    ledger = AggregatorLedger(Ledger(":memory:"))
    ledger.accept(RECEIPTS[:1])
    with pytest.raises(LedgerConflict):
        ledger.accept([RECEIPTS[1], RECEIPTS[0]])
    assert list(ledger.unsealed()) == [RECEIPTS[0].encoded]


def test_sealed_epoch_is_found_again_byte_for_byte() -> None:
    ledger = AggregatorLedger(Ledger(":memory:"))
    aggregator = Aggregator(NETWORK, signer("aggregator"), ledger)
    for taken in RECEIPTS:
        aggregator.receive(taken, View())
    sealed = aggregator.seal({RECEIPTS[0].voucher.channel_id: 1 << 40})
    assert ledger.find_epoch(1) == sealed
    assert ledger.find_epoch(2) is None
    assert ledger.last_epoch() == 1
    assert list(ledger.unsealed()) == []


def test_header_survives_its_encoding() -> None:
    header = EpochHeader(
        (1 << 64) - 1,
        bytes([1]) * 32,
        bytes([2]) * 32,
        7,
        payout_root=bytes([3]) * 32,
        payout_total=(1 << 128) - 1,
        batch_digest=bytes([4]) * 32,
    )
    assert decode_header(header.encoded) == header


def test_journal_keeps_attempts_in_order_and_knows_what_was_posted(tmp_path: Path) -> None:
    journal = PostJournal(Ledger(tmp_path / "ledger"))
    attempts = [
        PostAttempt(5, b"raw %d" % number, bytes([number]) * 32, (1 << 80) + number, tip_wei=number)
        for number in range(3)
    ]
    for attempt in attempts:
        journal.add_attempt(9, attempt)
    with pytest.raises(LedgerConflict):
        journal.add_attempt(9, attempts[0])
    assert journal.find_posted(9) is None
    journal.confirm(9, attempts[1].hash, 100)
    journal.confirm(9, attempts[1].hash, 100)
    journal.confirm(9, attempts[2].hash, 101)
    again = PostJournal(Ledger(tmp_path / "ledger"))
    assert again.attempts(9) == attempts
    assert again.attempts(8) == []
    assert again.find_posted(9) == (attempts[2].hash, 101)
    assert again.last_posted() == 9


def test_ledger_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    Ledger(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE ledger_schema SET version = 99")
    with pytest.raises(LedgerError, match="99"):
        Ledger(path)


def test_other_tables_in_the_same_file_do_not_matter(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger") as db:
        db.execute("CREATE TABLE channel (id BLOB)")
    filled(Ledger(tmp_path / "ledger"))


def test_threads_share_a_ledger(tmp_path: Path) -> None:
    outbox, (digest, *_) = filled(Ledger(tmp_path / "ledger"))
    moved: list[bool] = []
    threads = [
        threading.Thread(target=lambda: moved.append(outbox.advance(digest, OutboxState.GOSSIPED)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(moved) == [False] * 7 + [True]


def run(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
    )


FILL = """
    import sys
    from proofs.errors import LedgerConflict
    from proofs.ledger import AggregatorLedger, Ledger
    from tests.proofs.scene import chain
    ledger, won = AggregatorLedger(Ledger(sys.argv[1])), 0
    for envelope in chain(100):
        try:
            ledger.accept([envelope])
            won += 1
        except LedgerConflict:
            pass
    print(won)
"""


def test_two_processes_on_one_file_write_each_receipt_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    processes = [run(FILL, path) for _ in range(2)]
    won = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(won) == 100
    assert len(list(AggregatorLedger(Ledger(path)).unsealed())) == 100


RECEIVE = """
    import sys
    from proofs.aggregator import Aggregator
    from proofs.ledger import AggregatorLedger, Ledger
    from tests.proofs.scene import NETWORK, View, chain, signer
    aggregator = Aggregator(NETWORK, signer("aggregator"), AggregatorLedger(Ledger(sys.argv[1])))
    for number, envelope in enumerate(chain(300)):
        aggregator.receive(envelope, View())
        if number % 7 == 6:
            aggregator.seal({envelope.voucher.channel_id: envelope.receipt.receipt.cumulative})
        print(number, flush=True)
"""


def test_killed_aggregator_remembers_everything_it_promised(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    process = run(RECEIVE, path)
    assert process.stdout is not None
    promised = -1
    for line in process.stdout:
        promised = int(line)
        if promised == 40:
            process.send_signal(signal.SIGKILL)
            break
    promised = max([promised, *map(int, process.stdout.read().split())])
    process.stdout.close()
    process.wait(timeout=30)
    ledger = AggregatorLedger(Ledger(path))
    aggregator = Aggregator(NETWORK, signer("aggregator"), ledger)
    aggregator.check()
    due = aggregator.claims_due()
    reached = aggregator.history.log.size + len(list(ledger.unsealed()))
    assert reached >= promised + 1
    following = chain(reached + 1)[reached]
    assert isinstance(aggregator.receive(following, View()), Accepted)
    assert len(due) <= 1

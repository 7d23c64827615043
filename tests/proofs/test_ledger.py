"""What is written stays written: through a kill, on a full disk, beside a second process."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from proofs.aggregator import Accepted, Aggregator, Pledge
from proofs.epoch import EpochHeader, decode_header
from proofs.errors import LedgerConflict, LedgerError, LedgerFull, UnknownEntry
from proofs.ledger import (
    AggregatorLedger,
    Ledger,
    Outbox,
    OutboxState,
    PostAttempt,
    PostJournal,
    copy_ledger,
)
from proofs.promise import make_promise
from proofs.receipt import digest_of
from tests.processes import ending
from tests.proofs.scene import ADAPTER, MANIFEST, NETWORK, PLENTY, TERMS, chain, signer

RECEIPTS = chain(3)
NOW = 1_795_000_000
PLEDGES = [Pledge(taken, NOW + 600) for taken in RECEIPTS]
PROMISES = [
    make_promise(signer("aggregator"), taken.receipt, NOW + 600 + number, NETWORK)
    for number, taken in enumerate(RECEIPTS)
]


def filled(ledger: Ledger) -> tuple[Outbox, list[bytes]]:
    outbox = Outbox(ledger)
    return outbox, [outbox.add(taken.receipt.signed, taken.encoded) for taken in RECEIPTS]


def test_receipt_in_the_outbox_moves_forward_only() -> None:
    outbox, (digest, *_) = filled(Ledger(":memory:"))
    assert outbox.keep_promise(digest, PROMISES[0])
    assert not outbox.keep_promise(digest, PROMISES[0])
    assert outbox.mark_included([digest, bytes(32)], 4) == [digest]
    assert outbox.mark_included([digest], 5) == [], "it stays in the epoch that took it"
    assert outbox.mark_final(3) == []
    assert outbox.mark_final(4) == [digest]
    entry = outbox.find(digest)
    assert entry is not None
    assert (entry.state, entry.epoch, entry.promise) == (OutboxState.FINAL, 4, PROMISES[0])
    assert entry.signed == RECEIPTS[0].receipt.signed


def test_epochs_that_the_chain_takes_back_are_taken_back_in_the_outbox() -> None:
    outbox, digests = filled(Ledger(":memory:"))
    outbox.keep_promise(digests[0], PROMISES[0])
    outbox.keep_promise(digests[1], PROMISES[1])
    outbox.mark_included(digests[:1], 3)
    outbox.mark_included(digests[1:], 4)
    assert outbox.take_back(4) == 2
    states = [entry.state for entry in reversed(outbox.newest(3))]
    assert states == [OutboxState.INCLUDED, OutboxState.PROMISED, OutboxState.QUEUED]
    assert [entry.digest for entry in outbox.unpromised(9)] == digests[2:]
    assert outbox.mark_included(digests, 5) == digests[1:], "one is in a header already"
    assert outbox.take_back(6) == 0


def test_what_a_promise_that_ran_out_did_not_bring_is_sent_again() -> None:
    outbox, digests = filled(Ledger(":memory:"))
    for digest, promise in zip(digests, PROMISES, strict=True):
        outbox.keep_promise(digest, promise)
    assert [entry.promise for entry in outbox.promised()] == PROMISES
    assert outbox.queue_overdue(NOW + 600) == 0
    assert outbox.unpromised(9) == []
    outbox.mark_included(digests[:1], 1)
    assert [entry.promise for entry in outbox.promised()] == PROMISES[1:]
    assert outbox.queue_overdue(NOW + 602) == 1
    assert [entry.digest for entry in outbox.unpromised(9)] == digests[1:2]
    later = make_promise(signer("another"), RECEIPTS[1].receipt, NOW + 9_999, NETWORK)
    assert outbox.keep_promise(digests[1], later)
    assert [entry.promise for entry in outbox.promised()] == [later, PROMISES[2]]


def test_a_later_co_signature_upgrades_a_receipt_and_nothing_undoes_that() -> None:
    outbox = Outbox(Ledger(":memory:"))
    alone = chain(1, cosigned=False)[0]
    both = RECEIPTS[0]
    digest = outbox.add(alone.receipt.signed, alone.encoded)
    outbox.keep_promise(digest, PROMISES[0])
    assert outbox.add(both.receipt.signed, both.encoded) == digest
    outbox.add(alone.receipt.signed, alone.encoded)
    (entry,) = outbox.newest(9)
    assert (entry.signed, entry.envelope) == (both.receipt.signed, both.encoded)
    assert entry.state is OutboxState.PROMISED


def test_adding_again_does_not_send_a_receipt_back_to_the_queue() -> None:
    outbox, digests = filled(Ledger(":memory:"))
    outbox.keep_promise(digests[0], PROMISES[0])
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
        Outbox(Ledger(":memory:")).keep_promise(bytes(32), PROMISES[0])


def test_transaction_is_all_or_nothing() -> None:
    ledger = AggregatorLedger(Ledger(":memory:"))
    ledger.accept(PLEDGES[:1], {})
    with pytest.raises(LedgerConflict):
        ledger.accept([PLEDGES[1], PLEDGES[0]], {bytes(32): b"manifest"})
    assert list(ledger.unsealed()) == [(RECEIPTS[0].encoded, NOW + 600)]
    assert ledger.find_manifest(bytes(32)) is None


def filled_aggregator(ledger: AggregatorLedger) -> Aggregator:
    aggregator = Aggregator(NETWORK, signer("aggregator"), ledger)
    aggregator.learn(MANIFEST, ADAPTER)
    for taken in RECEIPTS:
        aggregator.receive(taken, PLENTY, TERMS, NOW)
    return aggregator


def test_sealed_epoch_is_found_again_byte_for_byte() -> None:
    ledger = AggregatorLedger(Ledger(":memory:"))
    sealed = filled_aggregator(ledger).seal({RECEIPTS[0].voucher.channel_id: PLENTY}, NOW)
    assert ledger.find_epoch(1) == sealed
    assert ledger.find_epoch(2) is None
    assert ledger.last_epoch() == 1
    assert list(ledger.unsealed()) == []


def test_two_checkpoints_are_kept_and_those_of_epochs_taken_back_are_not() -> None:
    ledger = AggregatorLedger(Ledger(":memory:"))
    assert ledger.checkpoint() is None
    for epoch in (3, 5, 5, 9):
        ledger.keep_checkpoint(epoch, b"after %d" % epoch)
    assert ledger.checkpoint() == b"after 9"
    ledger.unseal(6)
    assert ledger.checkpoint() == b"after 5"
    ledger.unseal(4)
    assert ledger.checkpoint() is None


def test_header_survives_its_encoding() -> None:
    header = EpochHeader(
        (1 << 64) - 1,
        bytes([1]) * 32,
        bytes([2]) * 32,
        7,
        channels_root=bytes([5]) * 32,
        payout_root=bytes([3]) * 32,
        payout_total=(1 << 128) - 1,
        batch_digest=bytes([4]) * 32,
    )
    assert decode_header(header.encoded) == header


def test_journal_keeps_attempts_in_order_and_knows_what_was_posted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    journal = PostJournal(ledger)

    def posted() -> list[Any]:
        return ledger.read("SELECT hash, block FROM posted WHERE epoch = 9")

    attempts = [
        PostAttempt(
            b"\x07" * 32,
            5,
            b"raw %d" % number,
            bytes([number]) * 32,
            max_fee_wei=(1 << 80) + number,
            tip_wei=number,
        )
        for number in range(3)
    ]
    for attempt in attempts:
        journal.add_attempt(9, attempt)
    with pytest.raises(LedgerConflict):
        journal.add_attempt(9, attempts[0])
    assert posted() == []
    journal.confirm(9, attempts[1].hash, 100)
    journal.confirm(9, attempts[1].hash, 100)
    journal.confirm(9, attempts[2].hash, 101)
    again = PostJournal(Ledger(tmp_path / "ledger"))
    assert again.attempts(9) == attempts
    assert again.attempts(8) == []
    assert posted() == [(attempts[2].hash, 101)]
    assert again.last_posted() == 9
    again.forget_posted(9)
    assert posted() == []
    assert again.last_posted() == 0
    assert again.attempts(9) == attempts, "any of them may still be mined"


def test_ledger_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    Ledger(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE ledger_schema SET version = 99")
    with pytest.raises(LedgerError, match="99"):
        Ledger(path)


@pytest.mark.parametrize("version", [4])
def test_a_ledger_of_an_earlier_version_is_brought_to_ours_with_all_that_is_in_it(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "ledger"
    shutil.copy(Path(__file__).parent / "ledgers" / f"{version}.sqlite", path)
    for _ in range(2):
        ledger = Ledger(path)
        outbox = Outbox(ledger)
        assert [one.digest for one in outbox.newest(9)] == [
            digest_of(taken.receipt.signed.body) for taken in reversed(RECEIPTS)
        ]
        entry = outbox.find(digest_of(RECEIPTS[0].receipt.signed.body))
        assert entry is not None
        assert (entry.state, entry.epoch, entry.promise) == (OutboxState.INCLUDED, 4, PROMISES[0])
        assert outbox.count()[False, OutboxState.INCLUDED] == 1
        assert ledger.read("SELECT body FROM channel") == [(b"body",)]
        assert described(ledger) == described(Ledger(":memory:"))
        ledger.close()


def described(ledger: Ledger) -> list[str]:
    rows = ledger.read("SELECT type, name, sql FROM sqlite_master WHERE sql NOT NULL")
    return sorted(f"{kind} {name}" for kind, name, _ in rows)


def test_a_ledger_is_copied_at_one_moment_while_it_is_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    has_begun = threading.Event()
    is_over = threading.Event()

    def write() -> None:
        number = 0
        while not is_over.is_set():
            with ledger.transaction():
                for part in (b"a", b"b"):
                    name = part + number.to_bytes(31, "big")
                    ledger.write("INSERT INTO channel VALUES (?, ?, ?)", name, bytes(20), part)
            number += 1
            has_begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    has_begun.wait()
    try:
        for number in range(5):
            copy_ledger(tmp_path / "ledger", tmp_path / f"copy-{number}")
    finally:
        is_over.set()
        writer.join()
    for number in range(5):
        path = tmp_path / f"copy-{number}"
        assert path.stat().st_mode & 0o777 == 0o600
        assert not list(tmp_path.glob(f"copy-{number}-*"))
        copy = Ledger(path)
        counted = dict(copy.read("SELECT body, COUNT(*) FROM channel GROUP BY body"))
        assert counted[b"a"] == counted[b"b"] > 0


def test_other_tables_in_the_same_file_do_not_matter(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger") as db:
        db.execute("CREATE TABLE somebody_elses (id BLOB)")
    filled(Ledger(tmp_path / "ledger"))


def test_threads_share_a_ledger(tmp_path: Path) -> None:
    outbox, (digest, *_) = filled(Ledger(tmp_path / "ledger"))
    moved: list[bool] = []
    threads = [
        threading.Thread(target=lambda: moved.append(outbox.keep_promise(digest, PROMISES[0])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(moved) == [False] * 7 + [True]


# --- a disk that is full ---


def fill_up(ledger: Ledger, spare_pages: int = 0) -> None:
    """No page more fits on the disk, but for so many."""
    ((pages,),) = ledger.read("PRAGMA page_count")
    ledger.read(f"PRAGMA max_page_count = {pages + spare_pages}")


def make_space(ledger: Ledger) -> None:
    ledger.read("PRAGMA max_page_count = 1000000")


@pytest.mark.parametrize("spare_pages", [0, 1, 2, 3, 5, 7, 9, 12])
def test_a_full_disk_is_said_loses_nothing_and_stops_nobody(
    tmp_path: Path, spare_pages: int
) -> None:
    """Whichever write it is that finds no room: what was promised is there, and what failed can be
    done again as soon as there is.
    """
    ledger = Ledger(tmp_path / "ledger")
    store = AggregatorLedger(ledger)
    aggregator = Aggregator(NETWORK, signer("aggregator"), store)
    aggregator.learn(MANIFEST, ADAPTER)
    outbox = Outbox(ledger)
    taken = chain(32)
    fill_up(ledger, spare_pages)
    promised = 0
    num_failures = 0
    while promised < len(taken):
        try:
            outbox.add(taken[promised].receipt.signed, taken[promised].encoded)
            outcome = aggregator.receive(taken[promised], PLENTY, TERMS, NOW)
            assert isinstance(outcome, Accepted)
            promised += 1
            if promised % 8 == 0:
                sealed = aggregator.seal({taken[0].voucher.channel_id: PLENTY}, NOW)
                assert sealed is not None
                aggregator.write_checkpoint()
        except LedgerFull:
            num_failures += 1
            aggregator.check()
            again = Aggregator(NETWORK, signer("aggregator"), store)
            assert again.state.header == aggregator.state.header
            assert again.state.log.size + again.num_unsealed == promised
            make_space(ledger)
    assert num_failures == 1
    assert len(outbox.newest(99)) == len(taken)
    aggregator.seal({taken[0].voucher.channel_id: PLENTY}, NOW)
    assert aggregator.state.log.size == len(taken)


def test_a_broken_file_is_a_ledger_error(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(b"this is no database, but long enough to be looked at" * 100)
    with pytest.raises(LedgerError):
        Ledger(path)
    ledger = Ledger(":memory:")
    ledger.close()
    with pytest.raises(LedgerError):
        Outbox(ledger).newest(1)


# --- other processes, and a process that is killed ---


def run(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
    )


FILL = """
    import sys
    from proofs.errors import LedgerConflict
    from proofs.aggregator import Pledge
    from proofs.ledger import AggregatorLedger, Ledger
    from tests.proofs.scene import chain
    ledger, won = AggregatorLedger(Ledger(sys.argv[1])), 0
    for envelope in chain(100):
        try:
            ledger.accept([Pledge(envelope, 1)], {})
            won += 1
        except LedgerConflict:
            pass
    print(won)
"""


def test_two_processes_on_one_file_write_each_receipt_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with ending(run(FILL, path)) as one, ending(run(FILL, path)) as other:
        won = [int(process.communicate(timeout=60)[0]) for process in (one, other)]
        assert (one.returncode, other.returncode) == (0, 0)
    assert sum(won) == 100
    assert len(list(AggregatorLedger(Ledger(path)).unsealed())) == 100


RECEIVE = """
    import sys
    from proofs.aggregator import Aggregator
    from proofs.ledger import AggregatorLedger, Ledger
    from tests.proofs.scene import ADAPTER, MANIFEST, NETWORK, PLENTY, TERMS, chain, signer
    aggregator = Aggregator(NETWORK, signer("aggregator"), AggregatorLedger(Ledger(sys.argv[1])))
    aggregator.learn(MANIFEST, ADAPTER)
    for number, envelope in enumerate(chain(300)):
        aggregator.receive(envelope, PLENTY, TERMS, 1_795_000_000)
        if number % 7 == 6:
            aggregator.seal({envelope.voucher.channel_id: PLENTY}, 1_795_000_000)
        if number % 14 == 13:
            aggregator.write_checkpoint()
        print(number, flush=True)
"""


@pytest.mark.parametrize("last", [0, 6, 13, 40, 41])
def test_killed_aggregator_remembers_everything_it_promised(tmp_path: Path, last: int) -> None:
    path = tmp_path / "ledger"
    with ending(run(RECEIVE, path)) as process:
        assert process.stdout is not None
        promised = -1
        for line in process.stdout:
            promised = int(line)
            if promised == last:
                process.send_signal(signal.SIGKILL)
                break
        promised = max([promised, *map(int, process.stdout.read().split())])
    ledger = AggregatorLedger(Ledger(path))
    aggregator = Aggregator(NETWORK, signer("aggregator"), ledger)
    aggregator.check()
    aggregator.state.check()
    reached = aggregator.state.log.size + aggregator.num_unsealed
    assert reached >= promised + 1
    following = chain(reached + 1)[reached]
    assert isinstance(aggregator.receive(following, PLENTY, TERMS, NOW), Accepted)

"""The poster: killed anywhere, sent twice, stuck, overtaken. Each header is on the chain once."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest

from proofs.chain.devchain import mint
from proofs.chain.errors import ContractReverted, FeeTooHigh, HeaderConflict, TransactionStuck
from proofs.chain.fees import GWEI, FeeLimits
from proofs.chain.poster import Poster, PostPolicy
from proofs.epoch import EpochHeader
from proofs.ledger import Ledger, PostJournal
from tests.node.forked import forked_python
from tests.proofs.chain.post_once import DEATHS
from tests.proofs.chain.world import World, memory_world


def run(served: World, journal: Path, where: str, header: EpochHeader) -> int:
    """A real process; its exit status."""
    fields = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in asdict(header).items()
    }
    arguments = [
        served.rpc.url,
        served.deployment.settlement.hex(),
        str(journal),
        where,
        json.dumps(fields),
    ]
    return subprocess.run(
        [forked_python(), "-m", "tests.proofs.chain.post_once", *arguments], check=False, timeout=60
    ).returncode


def posted_epochs(world: World) -> list[int]:
    return [posted.header.epoch for posted in world.client("anybody").settlement.headers()]


def test_a_process_killed_anywhere_on_its_way_posts_once(served: World, tmp_path: Path):
    journal = tmp_path / "journal.sqlite"
    aggregator = served.client("aggregator")
    served.earn(1000)
    for where in DEATHS:
        header = served.next_header()
        assert run(served, journal, where, header) == -signal.SIGKILL, where
        ledger = Ledger(journal)
        Poster(aggregator, PostJournal(ledger)).post(header)
        assert posted_epochs(served)[-1] == PostJournal(ledger).last_posted() == header.epoch
        ledger.close()
    assert posted_epochs(served) == [1, 2, 3, 4]
    assert aggregator.wallet.mined_nonce() == 4, "one transaction for each header"


def poster_for(world: World, tmp_path: Path, **policy) -> Poster:
    journal = PostJournal(Ledger(tmp_path / "journal.sqlite"))
    return Poster(world.client("aggregator"), journal, PostPolicy(**policy))


def post_in_vain(poster: Poster, header: EpochHeader, attempts: int = 2) -> None:
    """Post to a chain that mines nothing until the poster has sent so many transactions."""
    for _ in range(100):
        with pytest.raises(TransactionStuck, match="post it again"):
            poster.post(header, deadline_s=0.3)
        if len(poster._journal.attempts(header.epoch)) >= attempts:
            return
    raise AssertionError(f"fewer than {attempts} transactions were sent")


def test_posting_again_finds_what_is_there(world: World, tmp_path: Path):
    poster = poster_for(world, tmp_path)
    world.earn(1000)
    header = world.next_header()
    first = poster.post(header)
    assert poster.post(header) == first
    assert poster_for(world, tmp_path).post(header) == first
    assert posted_epochs(world) == [1]


def test_a_lost_journal_does_not_post_twice(world: World, tmp_path: Path):
    world.earn(1000)
    header = world.next_header()
    first = poster_for(world, tmp_path).post(header)
    (tmp_path / "journal.sqlite").unlink()
    again = poster_for(world, tmp_path).post(header)
    assert (again.transaction, again.gas_used) == (first.transaction, None)


def test_a_stuck_transaction_is_replaced_by_a_dearer_one_with_its_nonce(tmp_path: Path):
    world, chain = memory_world()
    world.earn(1000)
    header = world.next_header()
    chain.automine = False
    poster = poster_for(world, tmp_path, bump_after_s=0.05)

    post_in_vain(poster, header)
    attempts = poster._journal.attempts(1)
    assert len({attempt.nonce for attempt in attempts}) == 1
    assert all(
        later.max_fee_wei > 1.12 * earlier.max_fee_wei for earlier, later in pairwise(attempts)
    )

    chain.mine()
    assert poster_for(world, tmp_path).post(header).transaction == attempts[-1].hash
    assert posted_epochs(world) == [1]


def test_over_any_node_a_dearer_transaction_takes_the_stuck_ones_place(
    served: World, tmp_path: Path
):
    served.earn(1000)
    header = served.next_header()
    poster = poster_for(served, tmp_path, bump_after_s=0.05)
    served.rpc.call("evm_setAutomine", False)
    try:
        post_in_vain(poster, header)
        served.rpc.call("evm_mine")
    finally:
        served.rpc.call("evm_setAutomine", True)
    attempts = poster._journal.attempts(header.epoch)
    assert poster.post(header).transaction == attempts[-1].hash


def test_an_earlier_attempt_that_is_mined_counts(tmp_path: Path):
    world, chain = memory_world()
    world.earn(1000)
    header = world.next_header()
    chain.automine = False
    poster = poster_for(world, tmp_path, bump_after_s=0.05)
    post_in_vain(poster, header, attempts=1)
    first = poster._journal.attempts(1)[0]
    chain._pool.clear()  # the network forgot the dearer ones
    world.client("aggregator").wallet.broadcast(first.raw)
    chain.mine()
    assert poster.post(header).transaction == first.hash


def test_a_transaction_that_the_network_forgot_is_sent_again(tmp_path: Path):
    world, chain = memory_world()
    world.earn(1000)
    header = world.next_header()
    chain.automine = False
    post_in_vain(poster_for(world, tmp_path), header, attempts=1)
    chain._pool.clear()
    chain.automine = True
    poster = poster_for(world, tmp_path)
    assert poster.post(header).transaction == poster._journal.attempts(1)[0].hash


def test_a_nonce_that_another_transaction_took_is_replaced(tmp_path: Path):
    world, chain = memory_world()
    world.earn(1000)
    header = world.next_header()
    chain.automine = False
    post_in_vain(poster_for(world, tmp_path), header, attempts=1)
    chain._pool.clear()
    chain.automine = True
    mint(world.client("aggregator"), bytes(19) + b"\1", 1)
    poster_for(world, tmp_path).post(header)
    assert posted_epochs(world) == [1]


def test_no_more_is_offered_than_the_limit(tmp_path: Path):
    world, chain = memory_world()
    world.earn(1000)
    header = world.next_header()
    chain.automine = False
    journal = PostJournal(Ledger(tmp_path / "journal.sqlite"))
    limits = FeeLimits(max_fee_wei=4 * GWEI)  # the first offer is allowed, a dearer one is not
    client = world.client("aggregator", limits=limits)
    post_in_vain(Poster(client, journal, PostPolicy(bump_after_s=0.02)), header, attempts=1)
    assert {attempt.max_fee_wei <= 4 * GWEI for attempt in journal.attempts(1)} == {True}

    client = world.client("aggregator", limits=FeeLimits(max_fee_wei=1))
    header = replace(header, epoch=2)
    with pytest.raises(FeeTooHigh, match="max_fee_gwei"):
        client.wallet.send(*client.settlement.encode_post(world.next_header()))
    assert journal.attempts(2) == []


def test_it_waits_for_as_many_blocks_as_it_was_told(tmp_path: Path):
    world, chain = memory_world()
    world.earn(1000)
    header = world.next_header()
    poster = poster_for(world, tmp_path, confirmations=3)
    post_in_vain(poster, header, attempts=1)
    assert poster._journal.last_posted() == 0
    chain.mine()
    chain.mine()
    assert poster.post(header).epoch == 1
    assert poster._journal.last_posted() == 1


def test_a_header_that_the_contract_refuses_is_never_sent(world: World, tmp_path: Path):
    poster = poster_for(world, tmp_path)
    with pytest.raises(ContractReverted, match="PayoutExceedsReceived"):
        poster.post(world.next_header(payout_total=10**15))
    assert poster._journal.attempts(1) == []


def test_another_header_for_the_same_epoch_is_a_conflict_with_a_name(world: World, tmp_path: Path):
    world.earn(1000)
    header = world.next_header()
    poster = poster_for(world, tmp_path)
    poster.post(header)
    with pytest.raises(HeaderConflict, match="another header for epoch 1"):
        poster.post(replace(header, batch_digest=b"\3" * 32))


def test_a_header_that_was_unsealed_is_not_sent_for_the_one_in_its_place(tmp_path: Path):
    world, chain = memory_world()
    world.earn(1000)
    chain.automine = False
    unsealed = world.next_header()
    instead = replace(unsealed, batch_digest=b"\3" * 32)
    post_in_vain(poster_for(world, tmp_path), unsealed, attempts=1)
    poster = poster_for(world, tmp_path)
    post_in_vain(poster, instead, attempts=1)
    chain.mine()
    assert poster.post(instead, deadline_s=60).epoch == 1
    assert [posted.header for posted in world.client("anybody").settlement.headers()] == [instead]
    assert world.client("aggregator").wallet.mined_nonce() == 1, "it took the other's nonce"


def test_what_the_journal_says_is_posted_goes_with_what_the_chain_took_back(tmp_path: Path):
    world, chain = memory_world()
    world.earn(1000)
    before = chain.head.block_number
    poster = poster_for(world, tmp_path)
    poster.post(world.next_header())
    assert (poster.first_unposted(), poster._journal.last_posted()) == (2, 1)
    chain.revert_to(before)
    assert (poster.first_unposted(), poster._journal.last_posted()) == (1, 0)

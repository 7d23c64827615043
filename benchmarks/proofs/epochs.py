"""Measures what an aggregator's state costs at a million receipts: memory, restart, and one epoch.

One process, one core; times are of the processor, so that what else a machine does counts less. The
history is made up below the signatures, which a state does not keep;
the epochs that are timed are composed, verified and applied as always.

python -m benchmarks.proofs.epochs [receipts channels accounts]
"""

from __future__ import annotations

import gc
import hashlib
import random
import statistics
import sys
import time

import msgspec

from benchmarks import write_result
from proofs.attribution.shares import POLICY, AdapterTerms, fee, shares_for
from proofs.batch import compose, recompute
from proofs.channel import ChannelTip
from proofs.checkpoint import read_checkpoint, write_checkpoint
from proofs.digest import keccak
from proofs.epoch import AccountLeaf, ChannelLeaf, EntryLeaf, EpochHeader
from proofs.heap import settle_heap
from proofs.merkle import Log
from proofs.payouts import ChannelPayouts
from proofs.receipt import (
    VERSION,
    Receipt,
    SignedReceipt,
    VerifiedReceipt,
    encode_body,
    sign_receipt,
    verify_receipt,
)
from proofs.signing import Signer
from proofs.standing import (
    AccountStanding,
    ChannelStanding,
    Payee,
    Place,
    pack_payee,
    pack_places,
)
from proofs.state import EpochState
from proofs.sumtree import SumTree
from proofs.voucher import ChannelConfig, channel_id
from tests.proofs.economy import NETWORK, STARTED_AT, config, signer

SCALE = (1_000_000, 10_000, 100_000)
PER_EPOCH = 1_000
WARM_EPOCHS = 25  # in which the trees that are used most come to be kept
NUM_EPOCHS = 5
ADAPTERS_PER_CHANNEL = 20
PAID_PER_ADAPTER = 5  # a creator and four contributors
NUM_NODES = 50
GOALS = {
    "memory of the state MB": 500.0,
    "restart from a checkpoint s": 10.0,
    "seal 1,000 receipts s": 1.0,
}


def digest(kind: str, number: int) -> bytes:
    """A made-up hash."""
    return hashlib.sha256(f"{kind} {number}".encode()).digest()


class Market:
    """Channels, each of which is served with a few of many adapters."""

    def __init__(self, num_channels: int, num_accounts: int) -> None:
        self.accounts = [digest("account", number)[:20] for number in range(num_accounts)]
        self.num_owners = num_accounts // 10
        paid = self.accounts[self.num_owners :]
        self.terms = {
            digest("adapter", start): AdapterTerms.of_one(
                paid[start],
                tuple((who, 1) for who in paid[start + 1 : start + PAID_PER_ADAPTER]),
                bytes(32),
            )
            for start in range(0, len(paid) - PAID_PER_ADAPTER + 1, PAID_PER_ADAPTER)
        }
        self.adapters = list(self.terms)
        self.configs = [
            config("client", f"node {number % NUM_NODES}", number) for number in range(num_channels)
        ]
        self.ids = [channel_id(each, NETWORK) for each in self.configs]

    def owner(self, channel: int) -> bytes:
        """Who is paid the node's share of a channel's answers."""
        return self.accounts[channel % self.num_owners]

    def served(self, channel: int) -> list[bytes]:
        """The adapters of a channel."""
        first = channel * ADAPTERS_PER_CHANNEL
        places = range(first, first + ADAPTERS_PER_CHANNEL)
        return [self.adapters[place % len(self.adapters)] for place in places]

    def paid(self, channel: int) -> list[bytes]:
        """Everybody whom a channel pays."""
        found = [self.owner(channel)]
        for adapter in self.served(channel):
            terms = self.terms[adapter]
            [parent] = terms.parents
            found += [parent.creator, *(who for who, _ in parent.contributors)]
        return list(dict.fromkeys(found))


def past(market: Market, num_receipts: int) -> EpochState:
    """The state after so many receipts, evenly spread."""
    index = {account: number for number, account in enumerate(market.accounts)}
    places: list[list[Place]] = [[] for _ in market.accounts]
    amounts: list[list[int]] = [[] for _ in market.accounts]
    each = num_receipts // len(market.ids)
    channels = []
    for number, channel in enumerate(market.ids):
        payees = []
        for place, account in enumerate(market.paid(number)):
            amount = 10_000 + 7 * place
            who = index[account]
            payees.append(Payee(who, len(places[who]), amount))
            places[who].append(Place(number, place))
            amounts[who].append(amount)
        rows = [(market.accounts[payee.account], payee.amount) for payee in payees]
        signature = keccak(channel) + keccak(signature_of(number)) + b"\x1b"
        leaf = ChannelLeaf(
            channel,
            each,
            sum(payee.amount for payee in payees),
            ChannelPayouts(rows).commitment,
            body=digest("body", number),
            evidence=keccak(signature),
        )
        receipts = b"".join((number * each + i).to_bytes(8, "big") for i in range(each))
        channels.append(
            ChannelStanding(
                market.configs[number], leaf, signature, b"".join(map(pack_payee, payees)), receipts
            )
        )
    accounts = []
    for number, account in enumerate(market.accounts):
        entries = SumTree(
            EntryLeaf(market.ids[where.channel], amount, where.channel, where.place).node
            for where, amount in zip(places[number], amounts[number], strict=True)
        )
        leaf = AccountLeaf(account, entries.root.sum, entries.commitment)
        accounts.append(AccountStanding(leaf, pack_places(places[number])))
    state = EpochState(NETWORK)
    log = Log(digest("leaf", number) for number in range(num_receipts))
    state.restore(None, channels, accounts, log, adapters=market.terms)
    state.header = EpochHeader(
        epoch=num_receipts // PER_EPOCH,
        previous=bytes(32),
        receipts_root=state.log.root(),
        num_receipts=num_receipts,
        channels_root=state.channels.commitment,
        payout_root=state.accounts.commitment,
        payout_total=state.channels.root.sum,
        batch_digest=bytes(32),
    )
    return state


def signature_of(number: int) -> bytes:
    """Some bytes in the place of a signature's second half."""
    return b"signature %d" % number


def answers(market: Market, state: EpochState, chance: random.Random) -> list[VerifiedReceipt]:
    """So many new receipts of channels drawn by chance, as an aggregator holds them verified."""
    tips: dict[int, ChannelTip] = {}
    found = []
    for _ in range(PER_EPOCH):
        number = chance.randrange(len(market.ids))
        tip = tips.get(number) or state.find_tip(market.ids[number])
        assert tip is not None
        adapter = chance.choice(market.served(number))
        terms = market.terms[adapter]
        amount = fee(
            POLICY, 50 * chance.randrange(200), shares_for(POLICY, market.owner(number), terms)
        )
        node = signer(f"node {number % NUM_NODES}")
        body = draft(market, number, tip, adapter, amount)
        shares = shares_for(POLICY, body.owner, terms)
        payouts = tip.payouts.award(shares, amount)
        body = msgspec.structs.replace(body, payouts=payouts.commitment)
        found.append(verify_receipt(sign(body, node), NETWORK))
        tips[number] = tip.follow(found[-1], NETWORK, terms)
    return found


def draft(market: Market, number: int, tip: ChannelTip, adapter: bytes, amount: int) -> Receipt:
    """The next receipt of a channel, but for its payouts."""
    channel: ChannelConfig = market.configs[number]
    return Receipt(
        version=VERSION,
        chain_id=NETWORK.chain_id,
        settlement=NETWORK.settlement,
        channel_id=market.ids[number],
        sequence=tip.sequence + 1,
        previous=tip.previous,
        operator=channel.operator,
        client=channel.payer,
        base=bytes(32),
        adapter=adapter,
        owner=market.owner(number),
        prompt_commitment=bytes(32),
        answer_commitment=bytes(32),
        prompt_tokens=0,
        completion_tokens=amount,
        prompt_price=0,
        completion_price=1,
        amount=amount,
        cumulative=tip.cumulative + amount,
        seed=bytes(32),
        dtype=b"bfloat16",
        started_at=STARTED_AT,
        payouts=bytes(32),
    )


def sign(body: Receipt, node: Signer) -> SignedReceipt:
    """Both signatures."""
    client = signer("client")
    return SignedReceipt(
        encode_body(body), sign_receipt(node, body, NETWORK), sign_receipt(client, body, NETWORK)
    )


def keccak_us() -> float:
    """Time of the processor for one hash, by which to judge the other figures on this machine."""
    node = bytes(97)
    start = time.process_time()
    for _ in range(100_000):
        keccak(node)
    return (time.process_time() - start) * 10


def resident_mb() -> float:
    """Memory of this process now."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * 4096 / 1e6


def measure(num_receipts: int, num_channels: int, num_accounts: int) -> dict[str, float]:
    """Everything, by name; the last word is the unit."""
    market = Market(num_channels, num_accounts)
    data = write_checkpoint(past(market, num_receipts))
    gc.collect()
    gc.freeze()  # the market is not part of what is measured
    empty_mb = resident_mb()
    start = time.process_time()
    state = read_checkpoint(data, NETWORK)
    restart_s = time.process_time() - start
    restored_mb = resident_mb() - empty_mb
    settle_heap()  # as the aggregator does when its books are read
    chance = random.Random(2)
    seals = []
    for _ in range(WARM_EPOCHS + NUM_EPOCHS):
        receipts = answers(market, state, chance)
        start = time.process_time()
        batch = compose(receipts, {}, state)
        composed = time.process_time()
        transition = recompute(batch, state, {})
        recomputed = time.process_time()
        state.apply(transition)
        seals.append((composed - start, recomputed - composed, time.process_time() - recomputed))
    start = time.process_time()
    state.revert()
    revert_s = time.process_time() - start
    start = time.process_time()
    write_checkpoint(state)
    write_s = time.process_time() - start
    first = seals[0]
    seals = seals[WARM_EPOCHS:]
    return {
        "keccak of a node us": round(keccak_us(), 2),
        "receipts": num_receipts,
        "channels": num_channels,
        "accounts": num_accounts,
        "pairs of channel and account": sum(
            state.channel(number).num_payees for number in range(state.channels.size)
        ),
        "checkpoint MB": round(len(data) / 1e6, 1),
        "memory of the state MB": round(max(resident_mb() - empty_mb, restored_mb), 1),
        "restart from a checkpoint s": round(restart_s, 2),
        "write a checkpoint s": round(write_s, 2),
        "seal 1,000 receipts s": round(statistics.median(map(sum, seals)), 3),
        "of it compose s": round(statistics.median(each[0] for each in seals), 3),
        "of it recompute s": round(statistics.median(each[1] for each in seals), 3),
        "of it apply s": round(statistics.median(each[2] for each in seals), 3),
        "seal the first after a restart s": round(sum(first), 3),
        "take an epoch back s": round(revert_s, 3),
    }


def main() -> None:
    """Measure, print beside the goals, write."""
    scale = tuple(int(word) for word in sys.argv[1:]) or SCALE
    figures = measure(*scale)
    for name, value in figures.items():
        goal = f"   goal at most {GOALS[name]:,}" if name in GOALS else ""
        print(f"{name:36} {value:>12,}{goal}")
    write_result("proofs-epochs", figures)


if __name__ == "__main__":
    main()

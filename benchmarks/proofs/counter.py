"""What money costs a node for each answer, beside its tokens: the processor's time of one core.

The parts are the real ones, over a ledger on the disk: a voucher is checked and kept, the receipt
is signed and kept, the client's signature checked, the receipt kept with its envelope and handed
out, its promise kept, its epoch noted. The client's half is not counted. Vouchers that come while
tokens flow belong to the token path: only the first is here.

python -m benchmarks.proofs.counter [answers]
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks import write_result
from engine.messages import Choosing
from node.money.book import ChannelBook, Keeper
from node.wire import infer as wire
from node.wire import receipts
from node.wire.channels import ChannelFacts, ChannelRow, PayeeChannel, PayerChannel, Persist
from node.wire.metering import Deal
from node.wire.notary import Notary
from proofs.attribution.shares import POLICY, AdapterTerms
from proofs.envelope import seal_envelope
from proofs.ledger import Ledger, Outbox
from proofs.promise import make_promise
from proofs.receipt import VerifiedReceipt
from proofs.signing import Signer
from proofs.voucher import channel_id
from tests.proofs.economy import NETWORK, STARTED_AT, config, signer

GOAL_MS = 1.0
NUM_ANSWERS = 500
PER_EPOCH = 50
PROMPT = tuple(range(200))
ANSWER = tuple(range(100))
BASE = bytes(32)
ADAPTER = hashlib.sha256(b"adapter").digest()
TERMS = AdapterTerms.of_one(b"\x0c" * 20, ((b"\x0d" * 20, 2), (b"\x0e" * 20, 1)), BASE)
GREEDY = Choosing(
    0.0, 0, 1.0, 0.0, 1.0, presence_penalty=0.0, frequency_penalty=0.0, logit_bias=[], grammar=None
)
MUCH = 10**12


class Clock:
    """Adds up the processor's time of what runs inside, by name."""

    def __init__(self) -> None:
        self.spent_ms: dict[str, float] = {}

    @contextmanager
    def over(self, name: str) -> Iterator[None]:
        """Time one piece."""
        start = time.process_time()
        yield
        took_ms = (time.process_time() - start) * 1e3
        self.spent_ms[name] = self.spent_ms.get(name, 0.0) + took_ms


class Counter:
    """A node's side of one channel, and its client's."""

    def __init__(self, ledger: Ledger) -> None:
        self.node = signer("node")
        self.client = signer("client")
        terms = config("client", "node", 0)
        self.channel = channel_id(terms, NETWORK)
        row = ChannelRow(self.channel, self.node.address, terms)
        self.payee = PayeeChannel(row, Notary(self.node, NETWORK))
        self.payer = PayerChannel(row, Notary(self.client, NETWORK))
        self.payee.note(ChannelFacts(MUCH, is_withdrawing=False), 0.0)
        self.payer.note(msgspec.structs.replace(row.funds, deposit=MUCH))
        self.ledger = ledger
        self.keeper = Keeper(ChannelBook(ledger), self._earned)
        self.outbox = Outbox(ledger)

    def answer(self, number: int, clock: Clock) -> None:
        """One answer, from its first payment to its receipt."""
        deal = self._deal(number)
        cost = deal.cost(len(ANSWER))
        key = self.payer.begin(deal)
        payment = self.payer.pay(key, cost)
        with clock.over("voucher checked and kept"):
            here = self.payee.new_key()
            self.payee.check_voucher(payment.pay)
            self._keep(self.payee.raise_voucher(payment.pay))
            self.payee.promise_shares(here, deal.shares)
            self.payee.reserve(here, cost)
        with clock.over("receipt written, signed and kept"):
            self._keep(self.payee.draft(here, deal, ANSWER, STARTED_AT))
            pending = self.payee.pending
        assert pending is not None
        signed = self.payer.cosign(key, deal, ANSWER, pending.body, pending.node_signature)
        with clock.over("client's signature checked, receipt kept"):
            self._keep(self.payee.settle(signed.signature))

    def deliver(self, aggregator: Signer, epoch: int, clock: Clock) -> None:
        """Hand out the receipts of an epoch, take promises for them, and see them in a header."""
        with clock.over("handed out for sending"):
            entries = self.outbox.unpromised(PER_EPOCH)
            envelopes = [entry.envelope for entry in entries if entry.envelope is not None]
            msgspec.msgpack.encode(receipts.Deliver(envelopes))
        notary = Notary(self.node, NETWORK)
        promises = [
            make_promise(aggregator, notary.verify_receipt(entry.signed), MUCH, NETWORK)
            for entry in entries
        ]
        with clock.over("promise and epoch kept"):
            for entry, promise in zip(entries, promises, strict=True):
                self.outbox.keep_promise(entry.digest, promise)
            self.outbox.mark_included([entry.digest for entry in entries], epoch)
            self.outbox.mark_final(epoch)

    def _keep(self, persist: Persist | None) -> None:
        if persist is not None:
            self.keeper.keep(persist)

    def _earned(self, receipt: VerifiedReceipt, row: ChannelRow) -> None:
        """Keep a receipt as a node's delivery does."""
        signed = receipt.signed
        self.outbox.add(signed, seal_envelope(signed, row.as_voucher, row.config))

    def _deal(self, number: int) -> Deal:
        seed = hashlib.sha256(b"seed %d" % number).digest()
        ask = wire.Ask(
            version=wire.VERSION,
            base=BASE,
            adapter=ADAPTER,
            cocktail=b"",
            prompt_ids=list(PROMPT),
            max_tokens=len(ANSWER),
            terms=GREEDY,
            logprobs=None,
            stop_ids=[],
            seed_commitment=hashlib.sha256(seed).digest(),
            client=self.client.address,
            channel=self.payer.config,
            resumed=None,
            attributed=False,
        )
        offer = wire.Offer(
            node_seed=seed,
            paid=True,
            prompt_price=10,
            completion_price=50,
            owner=self.node.address,
            dtype=b"bfloat16",
            started_at=STARTED_AT,
            attributed=False,
            parameters=0,
        )
        return Deal.close(
            ask,
            offer,
            client_seed=seed,
            salt=bytes(16),
            operator=self.node.address,
            channel_id=self.channel,
            terms=TERMS,
            policy=POLICY,
        )


def measure(num_answers: int) -> dict[str, float]:
    """Milliseconds an answer, by piece."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        counter = Counter(ledger)
        warm = Clock()
        for number in range(PER_EPOCH):
            counter.answer(number, warm)
        aggregator = signer("aggregator")
        counter.deliver(aggregator, 1, warm)
        clocks = []
        numbers = itertools.count(PER_EPOCH)
        for epoch in range(2, 2 + num_answers // PER_EPOCH):
            clock = Clock()
            for _ in range(PER_EPOCH):
                counter.answer(next(numbers), clock)
            counter.deliver(aggregator, epoch, clock)
            clocks.append(clock)
        ledger.close()
    figures = {
        f"{name} ms": round(
            statistics.median(clock.spent_ms[name] for clock in clocks) / PER_EPOCH, 3
        )
        for name in clocks[0].spent_ms
    }
    return figures | {"an answer ms": round(sum(figures.values()), 3)}


def main() -> None:
    """Measure, print beside the goal, write."""
    figures = measure(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_ANSWERS)
    for name, value in figures.items():
        goal = f"   goal at most {GOAL_MS}" if name == "an answer ms" else ""
        print(f"{name:46} {value:>8}{goal}")
    write_result("proofs-counter", figures)


if __name__ == "__main__":
    main()

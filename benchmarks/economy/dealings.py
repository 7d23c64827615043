"""Cheats that need no market: whoever pays himself, contributors with many names, an aggregator
that leaves receipts out. Each is played with the functions that pay and choose in earnest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from proofs.attribution.shares import AdapterTerms
from proofs.fair import FairQueue, Pledge
from proofs.parameters import DEFAULTS, PROMISE_S

from .measured import copies
from .money import BASE, Ledger
from .world import PRICE

ADAPTER = b"A" * 32
BOND = 1_000_000  # of a development network (proofs/chain/deploy.py)
EPOCH_S = 30
RECEIPTS = 200  # that come in one epoch


@dataclass(frozen=True)
class Dealing:
    """What one way of paying oneself brings: units, of which `paid` were the fees."""

    name: str
    paid: int
    back: int
    told: str

    @property
    def part_lost(self) -> float:
        """Return the part of the fees that is gone; below 0 something was won."""
        return 1 - self.back / self.paid if self.paid else 0.0


def all_dealings() -> list[Dealing]:
    """Play each of them."""
    return [*self_dealing(), wash_trading(), *splitting(), censoring()]


def self_dealing(answers: int = 1_000) -> list[Dealing]:
    """A client buys of his own node: with somebody's adapter, and with one that is his as well."""
    me = b"self".ljust(20, b"\0")
    found = []
    for whose, creator in (("another's adapter", b"creator".ljust(20, b"\0")), ("his own", me)):
        ledger = Ledger()
        terms = AdapterTerms.of_one(creator, (), BASE)
        for _ in range(answers):
            ledger.sell(b"client".ljust(20, b"\0"), me, ADAPTER, terms, price=PRICE)
        ledger.check()
        found.append(
            Dealing(
                f"self-dealing pair, {whose}",
                ledger.spent.total(),
                ledger.accounts[me],
                "the work and the chain's fees come on top; receipts earn nobody any trust",
            )
        )
    return found


def wash_trading(answers: int = 1_000) -> Dealing:
    """A creator buys his own adapter's answers of honest nodes."""
    me = b"creator".ljust(20, b"\0")
    ledger = Ledger()
    terms = AdapterTerms.of_one(me, (), BASE)
    for number in range(answers):
        owner = b"owner" + number.to_bytes(15, "big")
        ledger.sell(me, owner, ADAPTER, terms, price=PRICE)
    ledger.check()
    return Dealing(
        "wash trader",
        ledger.spent.total(),
        ledger.accounts[me],
        "nothing ranks adapters by what they sold; some nodes may fetch his ahead",
    )


def splitting(answers: int = 1_000) -> list[Dealing]:
    """A contributor under five names beside the same one under one; and what copies were paid."""
    shown = []
    for names in (1, 5):
        ledger = Ledger()
        mine = [b"me" + bytes([number]).ljust(18, b"\0") for number in range(names)]
        others = [(b"other" + bytes([number]).ljust(15, b"\0"), 1_000) for number in range(4)]
        contributors = tuple(sorted([(one, 1_000 // names) for one in mine] + others))
        terms = AdapterTerms.of_one(b"creator".ljust(20, b"\0"), contributors, BASE)
        for _ in range(answers):
            ledger.sell(b"client" * 3 + b"\0\0", b"owner" * 4, ADAPTER, terms, price=PRICE)
        ledger.check()
        shown.append((ledger.spent.total(), sum(ledger.accounts[one] for one in mine)))
    (paid, one), (_, five) = shown
    return [
        Dealing(
            "sybil contributor, five names for one",
            paid,
            paid + five - one,
            f"{one} units under one name, {five} under five",
        )
    ]


def copied() -> tuple[float, float]:
    """Return what part of the contributors' part one late copy, word for word, and the best paid of
    those with changed words drew.
    """
    rows = copies()
    single = [row for row in rows if row["copies"] == 1]
    verbatim = max(row["paid_percent"] for row in rows if not row["tokens_changed"])
    changed = max(row["paid_percent"] for row in single if row["tokens_changed"])
    return verbatim / 100, changed / 100


@dataclass(frozen=True)
class _Receipt:
    """Of an envelope what the queue reads."""

    payer: bytes
    place: tuple[bytes, int]


def censoring(epochs: int = 30, seed: int = 1) -> Dealing:
    """An aggregator promises all and leaves out one payer in twenty; the honest one beside it keeps
    every promise with the same queue.
    """
    within_s = DEFAULTS[PROMISE_S]
    late_honest = _late(epochs, seed, within_s, censored=())
    victims = [number for number in range(100) if number % 20 == 0]
    late_censor = _late(epochs, seed, within_s, censored=victims)
    ledger = Ledger()
    office = b"office".ljust(20, b"\0")
    ledger.lock(office, BOND)
    lost = ledger.slash(office, b"watcher".ljust(20, b"\0")) if late_censor else 0
    ledger.check()
    return Dealing(
        "censoring aggregator",
        BOND,
        BOND - lost,
        f"{late_censor} promises broken, {late_honest} by the honest one; nothing is earned by a"
        " receipt that is left out, and who refuses to promise loses nothing",
    )


def _late(epochs: int, seed: int, within_s: int, censored: Sequence[int]) -> int:
    """Count the promises whose deadline is over, at the end."""
    dice = random.Random(f"office {seed}")
    queue = FairQueue()
    sequences = [0] * 100
    left_out = {_payer(number) for number in censored}
    now = 0
    for _ in range(epochs):
        for _ in range(RECEIPTS):
            number = dice.randrange(len(sequences))
            sequences[number] += 1
            place = (_payer(number), sequences[number])
            queue.append(Pledge(_Receipt(_payer(number), place), now + within_s))  # type: ignore[arg-type]
        now += EPOCH_S
        chosen = queue.choose(
            2 * RECEIPTS, now + within_s // 2, lambda pledge: pledge.envelope.payer not in left_out
        )
        queue.remove(chosen)
    queue.check()
    return sum(pledge.deadline < now for pledge in queue)


def _payer(number: int) -> bytes:
    return b"payr" + number.to_bytes(16, "big")

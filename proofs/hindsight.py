"""Who would have earned what, had other parameters held: divides the fees of past answers anew.

    receipts and their adapters' terms, and values → Hindsight → the one report, by its bytes
    (simulate: all of it, for changes to what is in force)

Takes the answers as they were: who would have asked more or less at another price, nobody knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from .attribution.shares import (
    POLICY,
    AdapterTerms,
    SharePolicy,
    award,
    fee,
    parties_of,
    shares_for,
)
from .digest import Network
from .epoch import EpochHeader
from .hextext import to_hex
from .parameters import (
    COMPLETION_FLOOR,
    DEFAULTS,
    PROMPT_FLOOR,
    Ruling,
    Values,
    Version,
    rule_on,
    show_value,
)
from .policies import policy_of
from .receipt import Receipt

KIND = "lorikeet simulation 1"


@dataclass(frozen=True)
class Settled:
    """One answer of the past, the terms of its adapter (None: the bare base), and how its fee was
    divided.
    """

    receipt: Receipt
    terms: AdapterTerms | None
    policy: SharePolicy = POLICY

    @property
    def awards(self) -> list[tuple[bytes, int]]:
        """Return who was paid what."""
        receipt = self.receipt
        shares = shares_for(self.policy, receipt.owner, self.terms, receipt.drawn)
        return award(receipt.amount, shares)


@dataclass(frozen=True)
class Line:
    """What one account earned of these answers, and what it would have."""

    account: bytes
    earned: int
    would_earn: int


@dataclass(frozen=True)
class Hindsight:
    """All accounts, by address; what was paid in all, and what would have been."""

    lines: tuple[Line, ...]
    paid: int
    would_pay: int
    receipts: int


@dataclass(frozen=True)
class Simulation:
    """What changes would have made of the epochs from the first to `epochs`. `ruling`: all that
    would hold after them; `before`: what holds under the newest version.
    """

    found: Hindsight
    before: Ruling
    ruling: Ruling
    epochs: int
    report: bytes


def simulate(
    settled: Iterable[Settled],
    changes: Mapping[str, int],
    network: Network,
    *,
    last: EpochHeader,
    versions: Sequence[Version],
) -> Simulation:
    """Divide the fees of all answers until the epoch of `last` as if, beside the newest of these
    versions, changes held.
    """
    newest = versions[-1].values if versions else DEFAULTS
    voted = Version(len(versions) + 1, 0, {**newest, **changes})
    ruling = rule_on([*versions, voted])
    found = replay(settled, ruling.values)
    report = write_report(
        found,
        changes,
        network,
        epochs=(1, last.epoch),
        last_header=last.hash,
        version=len(versions),
    )
    return Simulation(found, rule_on(versions), ruling, last.epoch, report)


def replay(settled: Iterable[Settled], values: Values) -> Hindsight:
    """Divide the fees of these answers by the values, of which there is one for each parameter."""
    earned: Counter[bytes] = Counter()
    would: Counter[bytes] = Counter()
    num_receipts = 0
    for one in settled:
        num_receipts += 1
        earned.update(dict(one.awards))
        would.update(dict(award_by(one, values)))
    accounts = sorted(earned.keys() | would.keys())
    return Hindsight(
        tuple(Line(account, earned[account], would[account]) for account in accounts),
        paid=earned.total(),
        would_pay=would.total(),
        receipts=num_receipts,
    )


def award_by(one: Settled, values: Values) -> list[tuple[bytes, int]]:
    """Return who would have been paid what for one answer."""
    receipt = one.receipt
    policy = policy_of(values)
    prompt = max(receipt.prompt_price, values[PROMPT_FLOOR])
    completion = max(receipt.completion_price, values[COMPLETION_FLOOR])
    price = receipt.prompt_tokens * prompt + receipt.completion_tokens * completion
    amount = fee(policy, price, parties_of(policy, receipt.owner, one.terms))
    return award(amount, shares_for(policy, receipt.owner, one.terms, receipt.drawn))


def write_report(
    found: Hindsight,
    values: Mapping[str, int],
    network: Network,
    *,
    epochs: Sequence[int],
    last_header: bytes,
    version: int,
) -> bytes:
    """Write the one report of a simulation, as JSON whose bytes whoever repeats it gets, too.

    `values`: what would change, of the values of this `version`; `epochs`: the first and the last,
    of which `last_header` is the hash.
    """
    report = {
        "kind": KIND,
        "chain_id": network.chain_id,
        "settlement": to_hex(network.settlement),
        "epochs": list(epochs),
        "last_header": to_hex(last_header),
        "receipts": found.receipts,
        "version": version,
        "changes": {name: show_value(name, values[name]) for name in sorted(values)},
        "paid": found.paid,
        "would_pay": found.would_pay,
        "accounts": [[to_hex(line.account), line.earned, line.would_earn] for line in found.lines],
    }
    return msgspec.json.encode(report) + b"\n"

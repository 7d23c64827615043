"""Who pays whom: every fee divided by the real function that hindsight and receipts stand on, every
unit accounted for.

    reserved by clients = awarded to accounts + given back to clients
    locked by nodes     = given back + bounties + burned + still locked

Signs nothing and hashes nothing. Who gets what depends on nothing but owner, terms, price and
tokens, so each such fee is divided once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from node.wire.metering import Price
from proofs.attribution.shares import AdapterTerms
from proofs.hindsight import Settled, award_by
from proofs.parameters import DEFAULTS, Values
from proofs.receipt import VERSION, Receipt

from .measured import PROMPT_TOKENS, TOKENS

BASE = b"B" * 32
SOMETHING = b"." * 32
BOUNTY_PART = 2  # half of what is slashed goes to who shows it, the rest to nobody


@dataclass
class Ledger:
    """All money of one world, in units of the fee token."""

    values: Values = field(default_factory=lambda: DEFAULTS)
    accounts: Counter[bytes] = field(default_factory=Counter)
    spent: Counter[bytes] = field(default_factory=Counter)
    reserved: int = 0
    given_back: int = 0
    locked: Counter[bytes] = field(default_factory=Counter)
    staked: int = 0
    unlocked: int = 0
    bounties: int = 0
    burned: int = 0
    num_awards: int = 0
    _divided: dict[tuple[bytes, AdapterTerms, Price, int, int], dict[bytes, int]] = field(
        default_factory=dict
    )

    @property
    def num_divided(self) -> int:
        """Return how many different fees were divided."""
        return len(self._divided)

    def sell(
        self,
        payer: bytes,
        owner: bytes,
        adapter: bytes,
        terms: AdapterTerms,
        *,
        price: Price,
        most_tokens: int = TOKENS,
        tokens: int = TOKENS,
        prompt_tokens: int = PROMPT_TOKENS,
    ) -> dict[bytes, int]:
        """Sell one answer: reserve what it costs at most, award what it costs, give back the rest.
        Return who got what.
        """
        key = (owner, terms, price, prompt_tokens, tokens)
        parts = self._divided.get(key)
        if parts is None:
            receipt = _receipt(payer, owner, adapter, price, (prompt_tokens, tokens))
            parts = self._divided[key] = dict(award_by(Settled(receipt, terms), self.values))
        amount = sum(parts.values())
        most = max(price.cost(prompt_tokens, most_tokens), amount)
        self.reserved += most
        self.given_back += most - amount
        self.spent[payer] += amount
        self.accounts.update(parts)
        self.num_awards += 1
        return parts

    def break_off(self, price: Price) -> None:
        """Note an answer that was given up before its first token: nothing is owed."""
        most = price.cost(PROMPT_TOKENS, TOKENS)
        self.reserved += most
        self.given_back += most

    def lock(self, owner: bytes, amount: int) -> None:
        """Lock a stake or a bond."""
        self.staked += amount
        self.locked[owner] += amount

    def unlock(self, owner: bytes) -> int:
        """Give a stake back once its time is over; return how much."""
        amount = self.locked.pop(owner, 0)
        self.unlocked += amount
        return amount

    def slash(self, owner: bytes, finder: bytes) -> int:
        """Take all of a stake for a fault that signatures prove; return how much. No verdict that
        is statistical comes here.
        """
        amount = self.locked.pop(owner, 0)
        bounty = amount // BOUNTY_PART
        self.accounts[finder] += bounty
        self.bounties += bounty
        self.burned += amount - bounty
        return amount

    def check(self) -> None:
        """Raise AssertionError unless every unit is somewhere, once."""
        assert self.reserved == self.spent.total() + self.given_back
        assert self.accounts.total() == self.spent.total() + self.bounties
        left = self.unlocked + self.bounties + self.burned + self.locked.total()
        assert self.staked == left, (self.staked, left)
        assert min(self.accounts.values(), default=0) >= 0


def _receipt(
    payer: bytes, owner: bytes, adapter: bytes, price: Price, tokens: tuple[int, int]
) -> Receipt:
    prompt_tokens, completion_tokens = tokens
    amount = price.cost(prompt_tokens, completion_tokens)
    return Receipt(
        version=VERSION,
        chain_id=1,
        settlement=bytes(20),
        channel_id=SOMETHING,
        sequence=1,
        previous=bytes(32),
        operator=owner,
        client=payer,
        base=BASE,
        adapter=adapter,
        owner=owner,
        prompt_commitment=SOMETHING,
        answer_commitment=SOMETHING,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        prompt_price=price.prompt,
        completion_price=price.completion,
        amount=amount,
        cumulative=amount,
        seed=SOMETHING,
        dtype=b"bfloat16",
        started_at=0,
        payouts=SOMETHING,
    )

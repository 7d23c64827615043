"""Decides what an answer costs and what both sides sign about it. Knows no message's order.

Pure: client and node each run this on what they saw themselves, and compare.

One channel's money, cumulative, from left to right; several requests may run on one channel at
once:

    0 ──settled──┬──reserved by running requests──┬──free──┐
                                                       min(voucher, deposit)

A voucher may be higher than the deposit, or the deposit sink below what was promised (a withdrawal,
a reorganised chain): only what both cover is good for anything more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from proofs.attribution.credit import NOTHING, Drawn
from proofs.attribution.shares import AdapterTerms, SharePolicy, fee, parties_of, shares_for
from proofs.digest import Network
from proofs.payouts import NO_PAYOUTS, ChannelPayouts
from proofs.receipt import FIRST_PREVIOUS, VERSION, Receipt, commit

from ..errors import PaymentRequired
from .infer import Ask, Offer, seed_of


@dataclass(frozen=True)
class Price:
    """Per token, in the fee token's smallest unit."""

    prompt: int
    completion: int

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What so many tokens cost."""
        return prompt_tokens * self.prompt + completion_tokens * self.completion

    def is_above(self, most: Price) -> bool:
        """Return whether these prices are above others in anything."""
        return self.prompt > most.prompt or self.completion > most.completion

    def credit(self, limit: int, prompt_tokens: int, max_tokens: int) -> int | None:
        """How many tokens of answer `limit` pays for, at most `max_tokens`; None when it does not
        even pay for the prompt.
        """
        left = limit - prompt_tokens * self.prompt
        if left < 0:
            return None
        return min(left // self.completion, max_tokens) if self.completion else max_tokens


@dataclass
class Account:
    """One channel as one side sees it.

    Every method either keeps the picture above true or raises PaymentRequired and changes nothing.
    """

    settled: int
    voucher: int
    deposit: int
    _reserved: dict[int, int] = field(default_factory=dict)

    @property
    def reserved(self) -> int:
        """What running requests may still spend."""
        return sum(self._reserved.values())

    @property
    def needed(self) -> int:
        """The least voucher that covers what is settled and reserved."""
        return self.settled + self.reserved

    @property
    def free(self) -> int:
        """What is deposited and neither spent nor reserved."""
        return self.deposit - self.needed

    def reserved_for(self, key: int) -> int:
        """What request `key` may still spend; 0 for one that is not known."""
        return self._reserved.get(key, 0)

    def needed_with(self, key: int, limit: int) -> int:
        """The least voucher that lets request `key` spend up to `limit` beside everything else."""
        return self.needed - self.reserved_for(key) + limit

    def missing(self, key: int, limit: int) -> int:
        """By how much the deposit is too small for request `key` to spend up to `limit`; 0 when it
        is not.
        """
        return max(0, self.needed_with(key, limit) - self.deposit)

    def raise_voucher(self, amount: int) -> None:
        """A voucher for `amount` was given; an older, smaller one arriving late changes nothing."""
        self.voucher = max(self.voucher, amount)

    def reserve(self, key: int, limit: int) -> None:
        """Let request `key` spend up to `limit` in all, if voucher and deposit cover it beside
        everything else.

        A limit that is not higher changes nothing: tokens may have been made for the higher one.
        """
        if limit <= self.reserved_for(key):
            return
        others = self.needed - self.reserved_for(key)
        for name, amount in (("voucher", self.voucher), ("deposit", self.deposit)):
            if others + limit > amount:
                raise PaymentRequired(
                    f"the {name} of {amount} does not cover {others} already owed or reserved"
                    f" and {limit} for this request"
                )
        self._reserved[key] = limit

    def restore(self, key: int, limit: int) -> None:
        """Reserve again what was reserved before a restart, whatever covers it now."""
        self._reserved[key] = limit

    def want(self, key: int, limit: int) -> int:
        """Plan to spend up to `limit` on request `key`; gives the voucher that this needs."""
        if self.missing(key, limit):
            raise PaymentRequired(
                f"the channel's deposit of {self.deposit} does not cover"
                f" {self.needed_with(key, limit)}; deposit more"
            )
        self._reserved[key] = limit
        self.voucher = max(self.voucher, self.needed)
        return self.voucher

    def shrink(self, key: int, amount: int) -> None:
        """Request `key` ended and cost `amount`: what it reserved beyond that is free again."""
        assert amount <= self.reserved_for(key), "an answer cost more than was reserved for it"
        self._reserved[key] = amount

    def settle(self, key: int, amount: int) -> None:
        """The receipt over `amount` has both signatures."""
        self._reserved.pop(key, None)
        self.settled += amount

    def release(self, key: int) -> None:
        """Request `key` costs nothing more."""
        self._reserved.pop(key, None)

    def check(self) -> None:
        """Raise AssertionError unless the picture at the top holds."""
        assert 0 <= self.settled <= self.needed <= self.voucher, self


@dataclass(frozen=True)
class Position:
    """Where the next receipt stands in its channel: `cumulative` and `payouts` before it."""

    sequence: int
    previous: bytes
    cumulative: int
    payouts: ChannelPayouts


FIRST = Position(1, FIRST_PREVIOUS, 0, NO_PAYOUTS)
"""Where a channel's first receipt stands."""


@dataclass(frozen=True)
class Deal:
    """What both sides agreed on before the first token.

    Each side builds it from the messages, and reads in the adapter's manifest who shares the fee
    (`terms`; None for the bare base), and in the parameters that the offer names by which parts
    (`policy`); then both write the same receipt. `client_seed` is the client's half of the seed, as
    the offer has the node's.
    """

    ask: Ask
    offer: Offer
    operator: bytes
    channel_id: bytes
    salt: bytes
    seed: bytes
    terms: AdapterTerms | None
    policy: SharePolicy
    client_seed: bytes

    @classmethod
    def close(
        cls,
        ask: Ask,
        offer: Offer,
        *,
        client_seed: bytes,
        salt: bytes,
        operator: bytes,
        channel_id: bytes,
        terms: AdapterTerms | None,
        policy: SharePolicy,
    ) -> Deal:
        """Fix the deal; the seed follows from both halves, or is that of the answer that goes on.

        `channel_id` is 32 zero bytes when nothing is paid.
        """
        resumed = ask.resumed
        seed = resumed.seed if resumed else seed_of(ask, offer.node_seed, client_seed)
        return cls(
            ask,
            offer,
            operator,
            channel_id,
            salt=salt,
            seed=seed,
            terms=terms,
            policy=policy,
            client_seed=client_seed,
        )

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.ask.prompt_ids)

    @property
    def price(self) -> Price:
        """The offered prices."""
        return Price(self.offer.prompt_price, self.offer.completion_price)

    @property
    def is_attributed(self) -> bool:
        """Whether both sides compute what the whole answer drew on, for its receipt to say it."""
        return self.ask.attributed and self.offer.attributed

    @cached_property
    def parties(self) -> tuple[tuple[bytes, int], ...]:
        """Who may share the fee, whatever the answer draws on: (address, role)."""
        return parties_of(self.policy, self.offer.owner, self.terms)

    @property
    def is_free(self) -> bool:
        """Whether nothing is asked for any token."""
        return not (self.price.prompt or self.price.completion)

    def cost(self, num_tokens: int) -> int:
        """What the prompt and so many tokens of answer cost: at least the protocol's fee for each
        share, and nothing where every token is free.
        """
        price = self.price.cost(self.prompt_tokens, num_tokens)
        return 0 if self.is_free else fee(self.policy, price, self.parties)

    def credit(self, limit: int) -> int:
        """How many tokens of answer `limit` pays for."""
        if limit < self.cost(0):
            return 0
        return self.price.credit(limit, self.prompt_tokens, self.ask.max_tokens) or 0

    def receipt(
        self,
        network: Network,
        position: Position,
        answer_ids: Sequence[int],
        drawn: Drawn = NOTHING,
    ) -> Receipt:
        """The one receipt that fits this deal, this place in the channel, this answer, and whose
        text it drew on.
        """
        ask = self.ask
        offer = self.offer
        amount = self.cost(len(answer_ids))
        shares = shares_for(self.policy, offer.owner, self.terms, drawn)
        return Receipt(
            version=VERSION,
            chain_id=network.chain_id,
            settlement=network.settlement,
            channel_id=self.channel_id,
            sequence=position.sequence,
            previous=position.previous,
            operator=self.operator,
            client=ask.client,
            base=ask.base,
            adapter=ask.adapter,
            owner=offer.owner,
            prompt_commitment=commit(self.salt, ask.prompt_ids),
            answer_commitment=commit(self.salt, answer_ids),
            prompt_tokens=len(ask.prompt_ids),
            completion_tokens=len(answer_ids),
            prompt_price=offer.prompt_price,
            completion_price=offer.completion_price,
            amount=amount,
            cumulative=position.cumulative + amount,
            seed=self.seed,
            dtype=offer.dtype,
            started_at=offer.started_at,
            payouts=position.payouts.award(shares, amount).commitment,
            parameters=offer.parameters,
            drawn=drawn,
        )


def find_difference(expected: Receipt, given: Receipt) -> str | None:
    """Name the first field in which two receipts differ."""
    names = expected.__struct_fields__
    return next((name for name in names if getattr(expected, name) != getattr(given, name)), None)

"""Random operations of everybody, honest or not.

After each, the books balance; each kind of operation did succeed often.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from proofs.chain.devchain import mint
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import VoucherClaim
from proofs.epoch import EpochHeader
from proofs.signing import Signer
from proofs.sumtree import PayoutTree
from proofs.voucher import ChannelConfig, Voucher, voucher_digest
from tests.proofs.chain.world import World, address, memory_world, secret

PAYERS = ("payer", "other")
ACCOUNTS = tuple(address(f"account {number}") for number in range(4))
OPERATIONS = (
    "deposit",
    "claim",
    "settle",
    "post",
    "payout",
    "withdraw",
    "finalize",
    "refund",
    "donate",
)
NUM_OPERATIONS = 120


class Chaos:
    """Does one random thing at a time, and knows what was signed and posted so far."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world = world
        self.dice = dice
        self.posted: list[tuple[EpochHeader, PayoutTree, dict[bytes, int]]] = []
        self.awards = dict.fromkeys(ACCOUNTS, 0)
        self.succeeded: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def step(self) -> None:
        name = self.dice.choice((*OPERATIONS, "claim", "post", "payout", "withdraw", "finalize"))
        try:
            getattr(self, name)()
        except ContractReverted as error:
            self.refused[error.error] += 1
        else:
            self.succeeded[name] += 1

    def channel(self) -> tuple[str, ChannelConfig]:
        payer = self.dice.choice(PAYERS)
        return payer, self.world.config(payer)

    def deposit(self) -> None:
        payer, config = self.channel()
        self.world.client(payer).channels.deposit(config, self.dice.randrange(1, 1_000))

    def claim(self) -> None:
        payer, config = self.channel()
        amount = self.dice.randrange(1, 1_500)
        total = amount + self.dice.choice((0, 0, 0, -1, 1))
        self.world.client("operator").channels.claim(
            [self.world.voucher(config, amount, payer, total)]
        )

    def settle(self) -> None:
        self.world.client("anybody").channels.settle()

    def post(self) -> None:
        """Awards a little more, or far too much, or moves an award from one account to another."""
        awards = dict(self.awards)
        account = self.dice.choice(ACCOUNTS)
        awards[account] += self.dice.choice((0, 10, 200, 10**6))
        if self.dice.random() < 0.2:
            moved = awards[ACCOUNTS[0]]
            awards[ACCOUNTS[0]] = 0
            awards[ACCOUNTS[1]] = awards[ACCOUNTS[1]] + moved
        header = self.world.next_header(awards)
        tree = PayoutTree(awards)
        self.world.post(header)
        self.awards = awards
        self.posted.append((header, tree, awards))

    def payout(self) -> None:
        if not self.posted:
            return self.settle()
        header, tree, awards = self.dice.choice(self.posted)
        owed = [account for account, amount in awards.items() if amount]
        if owed:
            self.world.client("anybody").settlement.claim(
                header, tree.prove(self.dice.choice(owed))
            )
        return None

    def withdraw(self) -> None:
        payer, config = self.channel()
        self.world.client(payer).channels.initiate_withdraw(config, self.dice.randrange(1, 100))

    def finalize(self) -> None:
        payer, config = self.channel()
        self.world.rpc.call("evm_increaseTime", self.dice.choice((1, 901, 901, 901)))
        self.world.client(payer).channels.finalize_withdraw(config)

    def refund(self) -> None:
        self.world.client("operator").channels.refund(self.channel()[1], self.dice.randrange(1, 60))

    def donate(self) -> None:
        mint(
            self.world.client("anybody"),
            self.world.deployment.settlement,
            self.dice.randrange(1, 50),
        )

    def check(self) -> None:
        """The two contracts hold what they must, whoever did what."""
        client = self.world.client("anybody")
        state = client.settlement.read()
        there = self.world.deployment
        balance = client.token.balance_of(there.settlement)
        assert state.total_paid <= state.payout_total <= balance + state.total_paid
        assert state.total_paid == sum(client.settlement.paid_to(account) for account in ACCOUNTS)
        assert all(
            client.settlement.paid_to(account) == client.token.balance_of(account)
            for account in ACCOUNTS
        )

        configs = [self.world.config(payer) for payer in PAYERS]
        states = [client.channels.read(client.channels.id_of(config)) for config in configs]
        assert all(0 <= one.total_claimed <= one.balance for one in states)
        claimed, settled = client.rpc.read(
            "Channels", there.channels, "receivers", there.settlement, there.token
        )
        assert claimed == sum(one.total_claimed for one in states)
        assert (
            client.token.balance_of(there.channels)
            == sum(one.unclaimed for one in states) + claimed - settled
        )


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_nobody_is_paid_what_was_not_received(seed: int):
    chaos = Chaos(memory_world()[0], random.Random(seed))
    for _ in range(NUM_OPERATIONS):
        chaos.step()
        if chaos.dice.random() < 0.4:
            chaos.check()
    chaos.check()
    print(f"seed {seed}: succeeded {dict(chaos.succeeded)}, refused {dict(chaos.refused)}")
    assert all(chaos.succeeded[name] >= 1 for name in OPERATIONS), chaos.succeeded
    assert chaos.refused["PayoutExceedsReceived"] >= 1
    assert chaos.refused["NothingToClaim"] >= 1


def test_a_voucher_of_one_chain_is_worth_nothing_on_another():
    here = memory_world()[0]
    elsewhere = memory_world()[0]
    config = here.config()
    here.client("payer").channels.deposit(config, 100)
    from dataclasses import replace

    network = replace(elsewhere.client("payer").network, chain_id=1337)
    foreign = here.voucher(config, 50).voucher
    signature = Signer(secret("payer")).sign_digest(voucher_digest(foreign.channel_id, 50, network))
    with pytest.raises(ContractReverted, match="BadVoucherSignature"):
        here.client("operator").channels.claim(
            [VoucherClaim(config, Voucher(foreign.channel_id, 50, signature), 50)]
        )

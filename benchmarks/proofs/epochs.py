"""Measures what an aggregator's state costs at a million receipts: memory, restart, and one epoch.

One process, one core. Most of the history is made up below the signatures (the state does not
check them); the epoch that is timed is composed, verified and applied as always.

python -m benchmarks.proofs.epochs [receipts channels accounts]
"""

from __future__ import annotations

import hashlib
import random

import msgspec

from proofs.attribution.shares import POLICY, AdapterTerms, Share, fee, shares_for
from proofs.channel import ChannelTip
from proofs.receipt import (
    Receipt,
    encode_body,
)
from proofs.voucher import channel_id
from tests.proofs.economy import NETWORK, STARTED_AT, config

SCALE = (1_000_000, 10_000, 100_000)
PER_EPOCH = 1_000
ADAPTERS_PER_CHANNEL = 20
CONTRIBUTORS = 4
GOALS = {
    "memory of the state MB": 500.0,
    "restart from checkpoint s": 10.0,
    "seal 1,000 receipts s": 1.0,
}


class History:
    """Channels that each serve a few of many adapters, in turn."""

    def __init__(self, num_channels: int, num_accounts: int) -> None:
        self.chance = random.Random(1)
        accounts = [hashlib.sha256(b"%d" % number).digest()[:20] for number in range(num_accounts)]
        self.owners = accounts[: num_accounts // 10]
        others = accounts[num_accounts // 10 :]
        # Everybody appears somewhere; each adapter pays a creator and a few contributors.
        step = CONTRIBUTORS + 1
        self.adapters = {
            hashlib.sha256(b"adapter %d" % start).digest(): AdapterTerms(
                others[start],
                tuple((who, 1 + place) for place, who in enumerate(others[start + 1 : start + step])),
                bytes(32),
            )
            for start in range(0, len(others), step)
        }
        self.configs = [
            config("client", f"node {number % 50}", number) for number in range(num_channels)
        ]
        self.ids = [channel_id(each, NETWORK) for each in self.configs]
        names = list(self.adapters)
        self.served = [
            [names[(ADAPTERS_PER_CHANNEL * number + each) % len(names)]
             for each in range(ADAPTERS_PER_CHANNEL)]
            for number in range(num_channels)
        ]
        self.tips = [ChannelTip(each) for each in self.configs]

    def answer(self, number: int) -> tuple[Receipt, tuple[Share, ...]]:
        """The next receipt of a channel, and who shares it."""
        tip = self.tips[number]
        adapter = self.chance.choice(self.served[number])
        owner = self.owners[number % len(self.owners)]
        shares = shares_for(POLICY, owner, self.adapters[adapter])
        amount = fee(3 * 10 + 50 * self.chance.randrange(200), shares)
        client, node = tip.config.payer, tip.config.operator
        body = Receipt(
            version=2,
            chain_id=NETWORK.chain_id,
            settlement=NETWORK.settlement,
            channel_id=self.ids[number],
            sequence=tip.sequence + 1,
            previous=tip.previous,
            operator=node,
            client=client,
            base=bytes(32),
            adapter=adapter,
            owner=owner,
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
        payouts = tip.payouts.award(shares, amount)
        body = msgspec.structs.replace(body, payouts=payouts.commitment)
        digest = hashlib.sha256(encode_body(body)).digest()
        self.tips[number] = ChannelTip(
            tip.config, body.sequence, digest, body.cumulative, payouts=payouts
        )
        return body, shares

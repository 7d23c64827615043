"""Moves money into channels, out of them, and back: the calls of x402's channels contract.

Every call waits until it is in a block; one that the contract refuses raises ContractReverted, and
nothing is sent. Knows no header and no receipt.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..digest import keccak, word
from ..voucher import ChannelConfig, channel_id
from .abi import encode
from .claiming import drop_refused
from .contract import DeployedContract
from .deploy import Deployment
from .errors import ContractReverted
from .finality import Finality
from .structs import ChannelState, DepositAuthorization, VoucherClaim, claim_values, config_values
from .token import Token, Transfer
from .views import LATEST, View

if TYPE_CHECKING:
    from .wallet import TransactionReceipt

DEPOSIT_VALID_S = 3600
MAX_CLAIMS_PER_TRANSACTION = 100
STATE_FUNCTIONS = ("channels", "pendingWithdrawals", "refundNonce")


@dataclass
class Claimed:
    """What became of claims: the transactions that booked them, and the rows that the contract
    refuses, each with its reason.
    """

    transactions: list[TransactionReceipt] = field(default_factory=list)
    refused: list[tuple[VoucherClaim, ContractReverted]] = field(default_factory=list)


class Channels:
    """The channels of one network, for one key."""

    def __init__(
        self, contract: DeployedContract, deployment: Deployment, finality: Finality
    ) -> None:
        self._contract = contract
        self._deployment = deployment
        self._finality = finality

    def id_of(self, config: ChannelConfig) -> bytes:
        """The channel's id on this network."""
        return channel_id(config, self._deployment.network)

    def read(self, channel_id: bytes, shallow: int = 0) -> ChannelState:
        """A channel as whoever is paid from it should see it; all zeros when nobody ever deposited.

        Money counts as soon as it is as deep as the network's finality asks (`shallow` of it
        before), and no longer than the newest block has it; a withdrawal counts at once.
        """
        (now,) = self.read_many([channel_id], LATEST)
        if not now.balance:
            return now
        (deep,) = self.read_many([channel_id])
        return replace(
            now,
            balance=min(now.balance, deep.balance + shallow),
            total_claimed=min(now.total_claimed, deep.total_claimed),
        )

    def read_many(
        self, channel_ids: Sequence[bytes], block: str | int | None = None
    ) -> list[ChannelState]:
        """Many channels' states, hundreds in one request; at the newest block that counts, unless
        another is named.
        """
        at = self._finality.block() if block is None else block
        name = self._contract.name
        address = self._contract.address
        views = [
            View(name, address, function, (channel_id,))
            for channel_id in channel_ids
            for function in STATE_FUNCTIONS
        ]
        answers = self._contract.rpc.read_many(views, at)
        return [
            ChannelState(*channel, *pending, *nonce)
            for channel, pending, nonce in zip(answers, answers, answers, strict=True)
        ]

    # ── the payer ──

    def deposit(self, config: ChannelConfig, amount: int) -> TransactionReceipt:
        """Put our own money into our channel; the first deposit opens it."""
        return self.relay_deposit(config, self.authorize_deposit(config, amount))

    def authorize_deposit(self, config: ChannelConfig, amount: int) -> DepositAuthorization:
        """Sign a deposit into this channel, for ourselves or anybody else to relay in the next
        hour.
        """
        chain_time = self._contract.rpc.get_block().timestamp
        now = max(chain_time, int(time.time()))  # a busy development chain runs ahead
        return self.sign_deposit(config, amount, now + DEPOSIT_VALID_S, secrets.randbits(256))

    def sign_deposit(
        self, config: ChannelConfig, amount: int, valid_before: int, salt: int
    ) -> DepositAuthorization:
        """Sign a deposit that is valid until a time of the chain's clock, in seconds. A salt is
        good for one deposit.
        """
        transfer = Transfer(
            payer=self._contract.wallet.address,
            to=self._deployment.collector,
            amount=amount,
            valid_after=0,
            valid_before=valid_before,
            nonce=keccak(self.id_of(config) + word(salt)),
        )
        token = Token(self._contract.beside("IFeeToken", config.token))
        signature = token.sign_transfer(transfer)
        return DepositAuthorization(amount, 0, valid_before, salt, signature=signature)

    def relay_deposit(
        self, config: ChannelConfig, authorization: DepositAuthorization
    ) -> TransactionReceipt:
        """Put a signed deposit into its channel; we pay the gas, the payer the money."""
        window = (authorization.valid_after, authorization.valid_before)
        data = encode(
            ("uint256", "uint256", "uint256", "bytes"),
            (*window, authorization.salt, authorization.signature),
        )
        collector = self._deployment.collector
        arguments = (config_values(config), authorization.amount, collector, data)
        return self._contract.send("deposit", *arguments)

    def initiate_withdraw(self, config: ChannelConfig, amount: int) -> TransactionReceipt:
        """Ask for unclaimed money back; it comes after the channel's withdraw delay, by
        `finalize_withdraw`.
        """
        return self._contract.send("initiateWithdraw", config_values(config), amount)

    def finalize_withdraw(self, config: ChannelConfig) -> TransactionReceipt:
        """Take what `initiate_withdraw` asked for, as far as it was not claimed since."""
        return self._contract.send("finalizeWithdraw", config_values(config))

    # ── the receiver, and anybody ──

    def claim(self, claims: Sequence[VoucherClaim]) -> Claimed:
        """Book vouchers to their receivers, up to 100 in a transaction; rows that the contract
        refuses are left out and told.

        We are receiver or receiver authorizer of all.
        """
        claimed = Claimed()
        for start in range(0, len(claims), MAX_CLAIMS_PER_TRANSACTION):
            self._claim_page(claims[start : start + MAX_CLAIMS_PER_TRANSACTION], claimed)
        return claimed

    def _claim_page(self, page: Sequence[VoucherClaim], claimed: Claimed) -> None:
        try:
            claimed.transactions.append(self._contract.send("claim", [*map(claim_values, page)]))
            return
        except ContractReverted:
            refused = list(drop_refused(page, self._simulate_claim))
            if not refused:  # it passes by now
                raise
        claimed.refused.extend(refused)
        bad = [id(claim) for claim, _ in refused]
        rest = [claim for claim in page if id(claim) not in bad]
        if rest:
            claimed.transactions.append(self._contract.send("claim", [*map(claim_values, rest)]))

    def _simulate_claim(self, rows: Sequence[VoucherClaim]) -> None:
        contract = self._contract
        data = contract.encode("claim", [*map(claim_values, rows)])
        contract.rpc.try_call(contract.address, data, LATEST, contract.wallet.address)

    def settle(self) -> TransactionReceipt:
        """Send the settlement contract what was claimed for it. Posting a header does this too."""
        there = self._deployment
        return self._contract.send("settle", there.settlement, there.token)

    def refund(self, config: ChannelConfig, amount: int) -> TransactionReceipt:
        """Give unclaimed money back to the payer at once.

        We are receiver or receiver authorizer.
        """
        return self._contract.send("refund", config_values(config), amount)

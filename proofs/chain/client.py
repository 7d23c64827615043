"""What Lorikeet asks of a chain, as plain calls: channels, headers, payouts, balances.

Every call that changes the chain waits until it is in a block and returns its receipt; one that the
contract refuses raises ContractReverted with the name of the contract's error, and nothing is sent.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from eth_abi import encode  # type: ignore[attr-defined]
from eth_utils.address import to_checksum_address

from ..digest import Network, keccak, struct_hash, typed_digest, word
from ..epoch import EpochHeader
from ..sumtree import PayoutProof
from ..voucher import ChannelConfig, channel_id
from .deploy import COLLECTOR, Deployment
from .structs import (
    CONFIRM_DEADLINE_S,
    ChannelState,
    DepositAuthorization,
    PostedHeader,
    SettlementState,
    VoucherClaim,
    claim_values,
    config_values,
    header_values,
    proof_values,
    read_posted,
    unhex,
)

if TYPE_CHECKING:
    from .rpc import Rpc
    from .wallet import TransactionReceipt

DEPOSIT_VALID_S = 3600
MAX_CLAIMS_PER_TRANSACTION = 100
LOG_PAGE_BLOCKS = 5_000
RECEIVE_TYPE = keccak(
    b"ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256"
    b" validBefore,bytes32 nonce)"
)


def open_client(
    url: str, settlement: bytes, secret: bytes, deadline_s: float = CONFIRM_DEADLINE_S
) -> ChainClient:
    """A client for the network whose settlement contract is here; channels and token are read from
    it.
    """
    from .rpc import Rpc  # brings web3: a daemon without a chain must not wait for it

    rpc = Rpc(url)
    try:
        return ChainClient(rpc, find_deployment(rpc, settlement), secret, deadline_s)
    except BaseException:  # whatever it was, the session must not stay open
        rpc.close()
        raise


def find_deployment(rpc: Rpc, settlement: bytes) -> Deployment:
    """The network's addresses, as its settlement contract names them.

    WrongChain when there is none.
    """
    channels, token = (
        rpc.read("Settlement", settlement, name)[0] for name in ("channels", "token")
    )
    return Deployment(
        rpc.web3.eth.chain_id, unhex(channels), COLLECTOR, unhex(token), settlement=settlement
    )


class ChainClient:
    """One key's view of one network's contracts. Safe to share between threads."""

    def __init__(
        self,
        rpc: Rpc,
        deployment: Deployment,
        secret: bytes,
        deadline_s: float = CONFIRM_DEADLINE_S,
    ) -> None:
        from .wallet import Wallet  # brings web3

        self.rpc = rpc
        self.deployment = deployment
        self.wallet = Wallet(rpc, secret, deployment.chain_id)
        self._deadline_s = deadline_s

    @property
    def address(self) -> bytes:
        """Who signs and pays the gas."""
        return self.wallet.address

    def close(self) -> None:
        """Give the connections back."""
        self.rpc.close()

    @property
    def network(self) -> Network:
        """What signatures of this network are bound to."""
        there = self.deployment
        return Network(there.chain_id, there.settlement, there.token, there.channels)

    # ── channels: the payer ──

    def sign_deposit(self, config: ChannelConfig, amount: int) -> DepositAuthorization:
        """Our signature for a deposit into this channel, for ourselves or anybody else to relay
        within an hour.
        """
        chain_time = self.rpc.web3.eth.get_block("latest")[
            "timestamp"
        ]  # a busy development chain runs ahead
        valid_before = max(chain_time, int(time.time())) + DEPOSIT_VALID_S
        salt = secrets.randbits(256)
        nonce = keccak(self.channel_id(config) + word(salt))
        authorized = (self.address, self.deployment.collector, amount, 0, valid_before, nonce)
        struct = struct_hash(RECEIVE_TYPE, *authorized)
        domain = self._read("DevDollar", config.token, "DOMAIN_SEPARATOR")[0]
        return DepositAuthorization(
            amount,
            0,
            valid_before,
            salt,
            signature=self.wallet.signer.sign_digest(typed_digest(domain, struct)),
        )

    def relay_deposit(
        self, config: ChannelConfig, authorization: DepositAuthorization
    ) -> TransactionReceipt:
        """Put a signed deposit into its channel; we pay the gas, the payer the money."""
        window = (authorization.valid_after, authorization.valid_before)
        data = encode(
            ("uint256", "uint256", "uint256", "bytes"),
            (*window, authorization.salt, authorization.signature),
        )
        collector = self.deployment.collector
        arguments = (config_values(config), authorization.amount, collector, data)
        return self._send("Channels", "deposit", *arguments)

    def deposit(self, config: ChannelConfig, amount: int) -> TransactionReceipt:
        """Put our own money into our channel; the first deposit opens it."""
        return self.relay_deposit(config, self.sign_deposit(config, amount))

    def initiate_withdraw(self, config: ChannelConfig, amount: int) -> TransactionReceipt:
        """Ask for unclaimed money back; it comes after the channel's withdraw delay, by
        `finalize_withdraw`.
        """
        return self._send("Channels", "initiateWithdraw", config_values(config), amount)

    def finalize_withdraw(self, config: ChannelConfig) -> TransactionReceipt:
        """Take what `initiate_withdraw` asked for, as far as it was not claimed since."""
        return self._send("Channels", "finalizeWithdraw", config_values(config))

    # ── channels: the receiver, and anybody ──

    def claim_vouchers(self, claims: Sequence[VoucherClaim]) -> list[TransactionReceipt]:
        """Book vouchers to their receivers, up to 100 in a transaction.

        We are receiver or receiver authorizer of all.
        """
        pages = [
            claims[start : start + MAX_CLAIMS_PER_TRANSACTION]
            for start in range(0, len(claims), MAX_CLAIMS_PER_TRANSACTION)
        ]
        return [
            self._send("Channels", "claim", [claim_values(claim) for claim in page])
            for page in pages
        ]

    def settle(self) -> TransactionReceipt:
        """Send the settlement contract what was claimed for it. Posting a header does this too."""
        return self._send("Channels", "settle", self.deployment.settlement, self.deployment.token)

    def refund(self, config: ChannelConfig, amount: int) -> TransactionReceipt:
        """Give unclaimed money back to the payer at once.

        We are receiver or receiver authorizer.
        """
        return self._send("Channels", "refund", config_values(config), amount)

    def channel_id(self, config: ChannelConfig) -> bytes:
        """The channel's id on this network."""
        return channel_id(config, self.network)

    def read_channel(self, channel_id: bytes) -> ChannelState:
        """A channel's state now; all zeros when nobody ever deposited."""
        channel, pending, nonce = (
            self._read("Channels", self.deployment.channels, function, channel_id)
            for function in ("channels", "pendingWithdrawals", "refundNonce")
        )
        return ChannelState(*channel, *pending, *nonce)

    # ── settlement ──

    def post_header(self, header: EpochHeader) -> TransactionReceipt:
        """Append a header; we are the aggregator.

        The daemon uses Poster, which survives being killed.
        """
        return self._send("Settlement", "post", header_values(header))

    def encode_post(self, header: EpochHeader) -> tuple[bytes, bytes]:
        """The contract and the call data of a post, for who signs and sends by himself."""
        return self.deployment.settlement, self._encode("Settlement", "post", header_values(header))

    def claim_payout(self, header: EpochHeader, proof: PayoutProof) -> TransactionReceipt:
        """Have the proof's account paid what it was awarded up to this header and not paid yet.

        Anybody may send this.
        """
        return self._send("Settlement", "claim", header_values(header), *proof_values(proof))

    def read_settlement(self) -> SettlementState:
        """The end of the header chain."""
        epoch, num_receipts, total, paid = (
            self._read_settlement(function)[0]
            for function in ("lastEpoch", "numReceipts", "payoutTotal", "totalPaid")
        )
        return SettlementState(
            epoch, self.find_header_hash(epoch) or bytes(32), num_receipts, total, total_paid=paid
        )

    def find_header_hash(self, epoch: int) -> bytes | None:
        """The hash of a posted header."""
        found = bytes(self._read_settlement("headerHashes", epoch)[0])
        return found if any(found) else None

    def find_header(self, epoch: int) -> PostedHeader | None:
        """A posted header, from its event."""
        return next(self._search(epoch), None)

    def headers(self, from_epoch: int = 1) -> Iterator[PostedHeader]:
        """Posted headers in their order."""
        return (posted for posted in self._search(None) if posted.header.epoch >= from_epoch)

    def paid_to(self, account: bytes) -> int:
        """What `account` was paid so far."""
        return int(self._read_settlement("claimed", account)[0])

    def aggregator(self) -> bytes:
        """Who may post headers."""
        return unhex(self._read_settlement("aggregator")[0])

    # ── money ──

    def token_balance(self, account: bytes) -> int:
        """Fee tokens of an account, in their smallest unit."""
        return int(self._read("DevDollar", self.deployment.token, "balanceOf", account)[0])

    def gas_balance(self, account: bytes) -> int:
        """What an account has for gas, in wei."""
        return self.rpc.web3.eth.get_balance(to_checksum_address(account))

    def mint(self, account: bytes, amount: int) -> TransactionReceipt:
        """Pretend dollars from the faucet, on development chains."""
        return self._send("DevDollar", "mint", account, amount)

    # ── inside ──

    def _search(self, epoch: int | None) -> Iterator[PostedHeader]:
        posted = self.rpc.contract("Settlement", self.deployment.settlement).events.Posted
        wanted = {} if epoch is None else {"epoch": epoch}
        last = self.rpc.web3.eth.block_number
        for start in range(self.deployment.first_block, last + 1, LOG_PAGE_BLOCKS):
            end = min(start + LOG_PAGE_BLOCKS - 1, last)
            yield from map(read_posted, posted.get_logs(wanted, from_block=start, to_block=end))

    def _address_of(self, contract: str) -> bytes:
        return {
            "Channels": self.deployment.channels,
            "Settlement": self.deployment.settlement,
            "DevDollar": self.deployment.token,
        }[contract]

    def _send(self, contract: str, function: str, *values: object) -> TransactionReceipt:
        return self.wallet.send(
            self._address_of(contract), self._encode(contract, function, *values), self._deadline_s
        )

    def _encode(self, contract: str, function: str, *values: object) -> bytes:
        return unhex(
            self.rpc.contract(contract, self._address_of(contract)).encode_abi(function, values)
        )

    def _read(
        self, contract: str, address: bytes, function: str, *values: object
    ) -> tuple[Any, ...]:
        return self.rpc.read(contract, address, function, *values)

    def _read_settlement(self, function: str, *values: object) -> tuple[Any, ...]:
        return self._read("Settlement", self.deployment.settlement, function, *values)

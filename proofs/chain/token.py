"""Asks the token in which fees are paid, and signs its transfers. Knows no channel.

Any ERC-20 token with ERC-3009 will do (contracts/src/interfaces/IFeeToken.sol); USDC is one.
Amounts are in the token's smallest unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..digest import domain_separator, keccak, struct_hash, typed_digest, word
from .abi import decode
from .contract import DeployedContract
from .errors import OddAnswer

if TYPE_CHECKING:
    from .answers import Log
    from .wallet import TransactionReceipt

RECEIVE_TYPE = keccak(
    b"ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256"
    b" validBefore,bytes32 nonce)"
)

TRANSFER_EVENT = keccak(b"Transfer(address,address,uint256)")
LOOKED_BACK_BLOCKS = 1_000
MAX_SYMBOL_CHARS = 11
NAMELESS = "tokens"
NAME_CALL = keccak(b"name()")[:4]
USUAL_VERSIONS = ("1", "2")


@dataclass(frozen=True)
class Transfer:
    """Money that its payer lets `to` fetch, once, while the chain's clock is between the two
    times.
    """

    payer: bytes
    to: bytes
    amount: int
    valid_after: int
    valid_before: int
    nonce: bytes


def transfer_digest(transfer: Transfer, domain: bytes) -> bytes:
    """What the payer signs (ERC-3009). `domain` is the token's EIP-712 domain separator."""
    window = (transfer.valid_after, transfer.valid_before)
    values = (transfer.payer, transfer.to, transfer.amount, *window, transfer.nonce)
    return typed_digest(domain, struct_hash(RECEIVE_TYPE, *values))


class Token:
    """A fee token, for one key."""

    def __init__(self, contract: DeployedContract) -> None:
        self._contract = contract

    @property
    def address(self) -> bytes:
        """Where it is."""
        return self._contract.address

    def balance_of(self, account: bytes) -> int:
        """What an account has."""
        return int(self._contract.read_one("balanceOf", account))

    def transfer(self, to: bytes, amount: int) -> None:
        """Give some of our money to somebody."""
        self._contract.send("transfer", to, amount)

    def allow(self, spender: bytes, amount: int) -> None:
        """Let a contract fetch this much of our money, where it may not yet."""
        own = self._contract.wallet.address
        if int(self._contract.read_one("allowance", own, spender)) < amount:
            self._contract.send("approve", spender, amount)

    def coin(self) -> tuple[str, int]:
        """Its symbol and its decimals, as people write amounts of it; a symbol that is none to show
        is "tokens".
        """
        symbol, decimals = self._contract.read_together("symbol", "decimals")
        is_short = 0 < len(symbol) <= MAX_SYMBOL_CHARS and symbol.isprintable()
        return (symbol if is_short and " " not in symbol else NAMELESS), int(decimals)

    def signing_domain(self) -> tuple[str, str]:
        """The name and version of the domain in which its transfers are signed, as a payer who has
        never seen the token needs them. OddAnswer where no usual version gives its separator.
        """
        contract = self._contract
        (name,) = decode(("string",), contract.rpc.try_call(contract.address, NAME_CALL))
        wanted = bytes(contract.read_one("DOMAIN_SEPARATOR"))
        chain_id = contract.rpc.chain_id()
        for version in USUAL_VERSIONS:
            if domain_separator(name, version, chain_id, contract.address) == wanted:
                return name, version
        raise OddAnswer(
            f"the token {name!r} signs in a domain of no usual version: {', '.join(USUAL_VERSIONS)}"
        )

    def relay_transfer(self, transfer: Transfer, signature: bytes) -> TransactionReceipt:
        """Send a transfer that its payer signed to go to anybody but a contract that fetches it; we
        pay the gas. ContractReverted, and nothing is sent, where the token refuses it.
        """
        values = (transfer.payer, transfer.to, transfer.amount)
        window = (transfer.valid_after, transfer.valid_before, transfer.nonce)
        parts = (signature[64], signature[:32], signature[32:64])
        return self._contract.send("transferWithAuthorization", *values, *window, *parts)

    def find_transfer(self, transfer: Transfer) -> bytes | None:
        """The transaction of the latest blocks in which a signed transfer was made; None where it
        was not: its nonce may have served for another one.
        """
        rpc = self._contract.rpc
        last = rpc.get_block().number
        wanted = {"authorizer": transfer.payer, "nonce": transfer.nonce}
        first = max(last - LOOKED_BACK_BLOCKS, 0)
        for event in self._contract.events("AuthorizationUsed", wanted, first=first, last=last):
            mined = rpc.find_mined(bytes(event["transactionHash"]))
            if mined is None:
                continue
            logs = {log.index: log for log in mined.logs}
            moved = logs.get(event["logIndex"] + 1)  # the token says so right after it
            if moved is not None and self._is_of(moved, transfer):
                return mined.hash
        return None

    def _is_of(self, log: Log, transfer: Transfer) -> bool:
        parties = (word(transfer.payer), word(transfer.to))
        return (
            log.address == self._contract.address
            and log.topics == (TRANSFER_EVENT, *parties)
            and int.from_bytes(log.data, "big") == transfer.amount
        )

    def sign_transfer(self, transfer: Transfer) -> bytes:
        """Sign that `transfer.to` may fetch this from us; moves nothing by itself."""
        domain = bytes(self._contract.read_one("DOMAIN_SEPARATOR"))
        return self._contract.wallet.signer.sign_digest(transfer_digest(transfer, domain))

"""What strangers pay outright (x402's `exact`): a transfer that its payer signed, for just what an
answer may cost. It is sent before anything is computed, and given back where nothing came of it.

    signed ──▶ ours? just that? in time? new? ──▶ sent ──▶ in a block ──▶ buys one answer
                                                    └─ in doubt ──▶ shown again: looked for, or sent
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import trio

from proofs.chain.errors import ChainError, ContractReverted
from proofs.chain.token import Transfer
from proofs.chain.wallet import TransactionReceipt
from proofs.hextext import to_hex

from ..api.sales import Settled, SignedTransfer, TransferRefused
from ..errors import NodeError
from ..telemetry import Telemetry
from ..threads import in_thread
from .facilitating import Facilitator

SEND_DEADLINE_S = 60.0
GIVE_BACK_DEADLINE_S = 30.0
SPARE_S = 6  # a transfer that ends sooner might not come into a block
MAX_VALID_S = 86_400  # what stays valid for longer would have to be remembered for longer
LOOK_INTERVAL_S = 1.0
MAX_REMEMBERED = 10_000

T = TypeVar("T")
Key = tuple[bytes, bytes]  # payer and nonce


class Token(Protocol):
    """What of the fee token is asked (proofs.chain's Token). Every call blocks."""

    def relay_transfer(self, transfer: Transfer, signature: bytes) -> TransactionReceipt:
        """Send what its payer signed."""

    def find_transfer(self, transfer: Transfer) -> bytes | None:
        """The transaction in which it was made, where it was."""

    def transfer(self, to: bytes, amount: int) -> None:
        """Give some of our money to somebody."""


class Transfers:
    """Outright payments. `relay` pays the gas of strangers' transfers, where no `facilitator` does;
    `purse` holds what came, at `payee`. `clock` gives Unix seconds.

    - A transfer buys one answer. One that was taken is refused until its time is over, and after
      that as late; after a restart the token refuses it.
    - Where the chain did not say in time what became of one, showing it again looks for it.
    """

    def __init__(
        self,
        relay: Token,
        purse: Token,
        payee: bytes,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        facilitator: Facilitator | None = None,
    ) -> None:
        self._facilitator = facilitator
        self._relay = relay
        self._purse = purse
        self.payee = payee
        self._telemetry = telemetry
        self._clock = clock
        self._in_doubt: dict[Key, None] = {}
        self._taken: dict[Key, int] = {}  # until when it is valid

    async def take(self, signed: SignedTransfer, amount: int) -> Settled:
        """Have the money come; it is in a block when this returns. Raises TransferRefused, and
        NodeError where the chain does not say: then the same transfer may be shown again.
        """
        transfer = signed.transfer
        self._check(transfer, amount)
        with self._alone(transfer) as key:
            found = None
            if key in self._in_doubt:
                found = await self._ask(self._relay.find_transfer, transfer)
            transaction = found or await self._send(key, signed)
            self._in_doubt.pop(key, None)
        self._telemetry.count("transfers_taken")
        return Settled(transfer.payer, amount, to_hex(transaction))

    async def give_back(self, settled: Settled) -> None:
        """Return what came, whoever cancels; where that fails or takes too long, the log has whom
        it is owed.
        """
        try:
            with trio.CancelScope(shield=True):
                await self._ask(
                    self._purse.transfer,
                    settled.payer,
                    settled.amount,
                    deadline_s=GIVE_BACK_DEADLINE_S,
                )
        except (ContractReverted, NodeError) as error:
            self._telemetry.log(
                f"selling: {settled.amount} is owed to {to_hex(settled.payer)}, who paid it in"
                f" {settled.transaction} for nothing, and was not given back: {error}"
            )
            return
        self._telemetry.count("transfers_given_back")

    def _check(self, transfer: Transfer, amount: int) -> None:
        if transfer.to != self.payee:
            raise TransferRefused(
                "payload_recipient_mismatch", f"the transfer must go to {to_hex(self.payee)}"
            )
        if transfer.amount != amount:
            raise TransferRefused(
                "payload_authorization_value_mismatch",
                f"the transfer is of {transfer.amount}; this costs {amount}",
            )
        left_s = transfer.valid_before - self._clock()
        if not SPARE_S <= left_s <= MAX_VALID_S:
            raise TransferRefused(
                "payload_authorization_valid_before",
                f"the transfer is valid for {left_s:.0f} s more; it must be for {SPARE_S} to"
                f" {MAX_VALID_S}",
            )

    @contextmanager
    def _alone(self, transfer: Transfer) -> Iterator[Key]:
        """Have nobody else use a transfer; while the block runs it counts as taken."""
        key = (transfer.payer, transfer.nonce)
        self._forget()
        if key in self._taken:
            raise TransferRefused("transaction_simulation_failed", "this transfer was used")
        if len(self._taken) >= MAX_REMEMBERED:
            raise TransferRefused("busy", "too many transfers at once; ask again in some minutes")
        self._taken[key] = transfer.valid_before
        try:
            yield key
        except BaseException:  # whatever it was: it may be shown again
            del self._taken[key]
            raise

    def _forget(self) -> None:
        """Let go of those whose time is over."""
        if len(self._taken) >= MAX_REMEMBERED // 2:
            now = self._clock()
            self._taken = {key: until for key, until in self._taken.items() if until >= now}

    async def _send(self, key: Key, signed: SignedTransfer) -> bytes:
        self._in_doubt[key] = None
        if len(self._in_doubt) > MAX_REMEMBERED:
            self._in_doubt.pop(next(iter(self._in_doubt)))
        try:
            if self._facilitator is not None:
                await self._facilitator.settle(signed)
                return await self._await(signed.transfer)
            sent = await self._ask(self._relay.relay_transfer, signed.transfer, signed.signature)
        except TransferRefused:
            self._in_doubt.pop(key, None)
            raise
        except ContractReverted as error:
            self._in_doubt.pop(key, None)
            raise TransferRefused("transaction_simulation_failed", str(error)) from error
        return sent.hash

    async def _await(self, transfer: Transfer) -> bytes:
        """Wait until the token has moved it."""
        with trio.move_on_after(SEND_DEADLINE_S):
            while True:
                found = await self._ask(self._relay.find_transfer, transfer)
                if found is not None:
                    return found
                await trio.sleep(LOOK_INTERVAL_S)
        raise NodeError("the facilitator's transfer is in no block yet; ask again")

    async def _ask(
        self, call: Callable[..., T], *values: object, deadline_s: float = SEND_DEADLINE_S
    ) -> T:
        try:
            return await in_thread(call, *values, deadline_s=deadline_s)
        except ContractReverted:
            raise
        except (ChainError, trio.TooSlowError) as error:
            raise NodeError(f"the chain does not do its part: {error}; ask again") from error

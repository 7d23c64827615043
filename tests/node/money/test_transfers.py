"""A transfer that a stranger signed buys one answer, whatever the chain says or does not say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import trio

from node.api.sales import Settled, SignedTransfer, TransferRefused
from node.errors import NodeError
from node.money.transfers import MAX_VALID_S, Transfers
from node.telemetry import Telemetry
from proofs.chain.errors import ChainError, ContractReverted
from proofs.chain.token import Transfer
from proofs.chain.wallet import TransactionReceipt

NOW = 1_800_000_000
PAYEE = bytes([2]) * 20
PAID = Transfer(bytes([1]) * 20, PAYEE, 2_000, 0, valid_before=NOW + 600, nonce=bytes(32))
HASH = bytes([9]) * 32


@dataclass
class Token:
    """A token whose chain may fail before or after a transfer is made."""

    made: list[Transfer] = field(default_factory=list)
    returned: list[tuple[bytes, int]] = field(default_factory=list)
    is_silent: bool = False
    is_late: bool = False

    def relay_transfer(self, transfer: Transfer, signature: bytes) -> TransactionReceipt:
        if self.is_silent:
            raise ChainError("it does not answer")
        if transfer in self.made:
            raise ContractReverted("ERC3009UsedAuthorization", (), "", b"")
        self.made.append(transfer)
        if self.is_late:
            raise ChainError("it does not say")
        return TransactionReceipt(HASH, 1, 60_000, b"", ())

    def find_transfer(self, transfer: Transfer) -> bytes | None:
        return HASH if transfer in self.made else None

    def transfer(self, to: bytes, amount: int) -> None:
        if self.is_silent:
            raise ChainError("it does not answer")
        self.returned.append((to, amount))


def taking(token: Token) -> Transfers:
    return Transfers(token, token, PAYEE, Telemetry(), clock=lambda: NOW)


def signed(transfer: Transfer = PAID) -> SignedTransfer:
    return SignedTransfer(transfer, bytes(65))


async def test_a_transfer_buys_once() -> None:
    token = Token()
    transfers = taking(token)
    settled = await transfers.take(signed(), 2_000)
    assert settled == Settled(PAID.payer, 2_000, "0x" + HASH.hex())
    with pytest.raises(TransferRefused, match="was used"):
        await transfers.take(signed(), 2_000)
    with pytest.raises(TransferRefused, match="ERC3009UsedAuthorization"):
        await taking(token).take(signed(), 2_000)  # after a restart
    assert token.made == [PAID]


async def test_of_two_that_show_it_at_once_one_has_it() -> None:
    transfers = taking(Token())
    outcomes = list[str]()

    async def take() -> None:
        try:
            outcomes.append((await transfers.take(signed(), 2_000)).transaction)
        except TransferRefused:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        nursery.start_soon(take)
    assert sorted(outcomes) == ["0x" + HASH.hex(), "refused"]


@pytest.mark.parametrize("comes", [True, False])
async def test_what_the_chain_did_not_answer_may_be_shown_again(comes: bool) -> None:
    token = Token(is_silent=not comes, is_late=comes)
    transfers = taking(token)
    with pytest.raises(NodeError, match="ask again"):
        await transfers.take(signed(), 2_000)
    token.is_silent = token.is_late = False
    assert (await transfers.take(signed(), 2_000)).amount == 2_000
    assert token.made == [PAID]
    with pytest.raises(TransferRefused):
        await transfers.take(signed(), 2_000)


@pytest.mark.parametrize(
    ("transfer", "reason"),
    [
        (replace(PAID, to=PAID.payer), "recipient_mismatch"),
        (replace(PAID, amount=1_999), "authorization_value_mismatch"),
        (replace(PAID, amount=2_001), "authorization_value_mismatch"),
        (replace(PAID, valid_before=NOW + 5), "authorization_valid_before"),
        (replace(PAID, valid_before=NOW + MAX_VALID_S + 1), "authorization_valid_before"),
    ],
)
async def test_what_is_not_for_this_answer_is_not_sent(transfer: Transfer, reason: str) -> None:
    token = Token()
    with pytest.raises(TransferRefused) as refused:
        await taking(token).take(signed(transfer), 2_000)
    assert refused.value.reason == f"invalid_exact_evm_payload_{reason}"
    assert token.made == []


async def test_what_cannot_be_given_back_is_written_down() -> None:
    token = Token()
    telemetry = Telemetry()
    transfers = Transfers(token, token, PAYEE, telemetry, clock=lambda: NOW)
    settled = await transfers.take(signed(), 2_000)
    token.is_silent = True
    await transfers.give_back(settled)
    assert any("2000 is owed to" in line for line in telemetry.latest()[1])
    token.is_silent = False
    await transfers.give_back(settled)
    assert token.returned == [(PAID.payer, 2_000)]

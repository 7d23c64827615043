"""What a wallet signs and offers."""

from __future__ import annotations

from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hypothesis import given
from hypothesis import strategies as st

from proofs.chain.rpc import Rpc
from proofs.chain.structs import Fees
from proofs.chain.wallet import Wallet
from proofs.digest import keccak

WALLET = Wallet(Rpc("nowhere"), b"\x07" * 32, 31337)


@given(
    st.integers(0, 2**64),
    st.integers(0, 2**60),
    st.integers(21_000, 30_000_000),
    st.sampled_from([b"", b"\x11" * 20]),
    st.binary(max_size=300),
)
def test_a_wallet_signs_what_it_was_told_and_nothing_more(
    nonce: int, fee: int, gas: int, to: bytes, data: bytes
):
    signed = WALLET.sign(to, data, gas, nonce, Fees(fee + 5, fee))
    assert signed.hash == keccak(signed.raw_transaction)
    assert bytes.fromhex(Account.recover_transaction(signed.raw_transaction)[2:]) == WALLET.address
    told = {
        "chainId": 31337,
        "nonce": nonce,
        "maxFeePerGas": fee + 5,
        "maxPriorityFeePerGas": fee,
        "gas": gas,
        "value": 0,
        "to": to,
        "data": data,
    }
    read = TypedTransaction.from_bytes(signed.raw_transaction).as_dict()
    assert read["type"] == 2
    assert read["accessList"] == ()
    assert {name: read[name] for name in told} == told


@given(st.integers(1, 2**64), st.integers(1, 50))
def test_a_bump_is_never_less_than_asked(fee: int, percent: int):
    bumped = Fees(fee, fee).bumped(percent)
    assert bumped.max_fee_wei * 100 >= fee * (100 + percent)
    assert bumped.max_fee_wei > fee

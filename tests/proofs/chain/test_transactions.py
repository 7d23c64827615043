"""Transactions that we write by hand are those that the general libraries write."""

from __future__ import annotations

import rlp
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from proofs.chain.transaction import Fees, encode_rlp, sign_transaction
from proofs.signing import Signer

ITEMS = st.recursive(st.binary(max_size=70), lambda inner: st.lists(inner, max_size=5), max_leaves=12)
SECRET = b"\x07" * 32


@given(ITEMS)
def test_rlp_is_that_of_the_library(item):
    assert encode_rlp(item) == rlp.encode(item)


@given(st.integers(0, 2**64), st.integers(0, 2**60), st.integers(21_000, 30_000_000), st.sampled_from([b"", b"\x11" * 20]), st.binary(max_size=300))
def test_a_signed_transaction_is_that_of_the_library(nonce: int, fee: int, gas: int, to: bytes, data: bytes):
    ours = sign_transaction(Signer(SECRET), 31337, nonce, Fees(fee + 5, fee), gas, to, data)
    fields = {"chainId": 31337, "nonce": nonce, "maxFeePerGas": fee + 5, "maxPriorityFeePerGas": fee, "gas": gas, "value": 0, "data": data, "type": 2}
    theirs = Account.sign_transaction(fields | ({"to": to} if to else {}), SECRET)
    assert (ours.raw, ours.hash) == (bytes(theirs.raw_transaction), bytes(theirs.hash))


@given(st.integers(1, 2**64), st.integers(1, 50))
def test_a_bump_is_never_less_than_asked(fee: int, percent: int):
    bumped = Fees(fee, fee).bumped(percent)
    assert bumped.max_fee_wei * 100 >= fee * (100 + percent)
    assert bumped.max_fee_wei > fee

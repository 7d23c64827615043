"""Writes a state as bytes and reads it back, so that a restart verifies only what is new.

Knows no key: whoever stores a checkpoint signs it, and reads back only what bears the own
signature. What is read is checked against its header all the same, so that a damaged disk cannot
make a wrong state; what channels and accounts hold below their leaves is taken on that signature.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .attribution.shares import AdapterTerms
from .codec import Address, Amount, Digest, NotCanonical, Record, Signature, decode, encode
from .digest import Network
from .epoch import ACCOUNT_LEAF_BYTES, CHANNEL_LEAF_BYTES, decode_channel_leaf, decode_header
from .errors import LedgerError
from .merkle import HASH_BYTES, Log
from .standing import ChannelStanding, unpack_account
from .state import EpochState
from .voucher import ChannelConfig

VERSION = 3
MAX_CHECKPOINT_BYTES = 1 << 32


class _Channel(Record, frozen=True):
    config: ChannelConfig
    leaf: Annotated[
        bytes, msgspec.Meta(min_length=CHANNEL_LEAF_BYTES, max_length=CHANNEL_LEAF_BYTES)
    ]
    node_signature: Signature
    payees: bytes
    receipts: bytes


class _Checkpoint(Record, frozen=True):
    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    chain_id: Amount
    settlement: Address
    token: Address
    channels_contract: Address
    header: bytes  # empty before the first epoch
    leaves: bytes  # of the log
    channels: list[_Channel]
    accounts: list[Annotated[bytes, msgspec.Meta(min_length=ACCOUNT_LEAF_BYTES)]]
    adapters: list[tuple[Digest, AdapterTerms]]  # in order of their digests


def write_checkpoint(state: EpochState) -> bytes:
    """Return the one byte form of a state."""
    network = state.network
    channels = (state.channel(index) for index in range(state.channels.size))
    accounts = (state.account(index) for index in range(state.accounts.size))
    return encode(
        _Checkpoint(
            version=VERSION,
            chain_id=network.chain_id,
            settlement=network.settlement,
            token=network.token,
            channels_contract=network.channels,
            header=state.header.encoded if state.header else b"",
            leaves=state.log.leaves,
            channels=[
                _Channel(one.config, one.leaf.encoded, one.node_signature, one.payees, one.receipts)
                for one in channels
            ],
            accounts=[one.packed for one in accounts],
            adapters=sorted(state.adapters.items()),
        )
    )


def read_checkpoint(data: bytes, network: Network) -> EpochState:
    """Read a state of this network from bytes that were signed.

    Raises LedgerError when they are another network's or version's, or damaged.
    """
    try:
        found = decode(data, _DECODER, MAX_CHECKPOINT_BYTES)
    except NotCanonical as error:
        raise LedgerError(f"this checkpoint cannot be read: {error}") from error
    written_for = Network(
        found.chain_id, found.settlement, found.token, channels=found.channels_contract
    )
    if found.version != VERSION or written_for != network:
        raise LedgerError("this checkpoint is of another version or network")
    state = EpochState(network)
    leaves = found.leaves
    state.restore(
        decode_header(found.header) if found.header else None,
        [
            ChannelStanding(
                one.config,
                decode_channel_leaf(one.leaf),
                one.node_signature,
                one.payees,
                one.receipts,
            )
            for one in found.channels
        ],
        [unpack_account(packed) for packed in found.accounts],
        Log(leaves[start : start + HASH_BYTES] for start in range(0, len(leaves), HASH_BYTES)),
        adapters=dict(found.adapters),
    )
    if not state.is_committed:
        raise LedgerError("this checkpoint is damaged: its header commits to something else")
    return state


_DECODER = msgspec.msgpack.Decoder(_Checkpoint)

"""Two epochs in a row: batches, and everything that a header commits to after each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2p.cid import Cid
from proofs.batch import compose, decode_batch
from proofs.channel import ChannelTip
from proofs.history import History
from proofs.receipt import BARE_BASE, VerifiedReceipt, decode_receipt, leaf_of, verify_receipt
from proofs.state import EpochState
from proofs.voucher import ChannelConfig, channel_id
from tests.proofs import scene

from .receipts import POLICIES, chain
from .world import (
    ADAPTER,
    ATTRIBUTED,
    ATTRIBUTED_MANIFEST,
    CONFIG,
    MANIFEST,
    NETWORK,
    OWNER,
    named,
    named_header,
    network,
)

MANIFESTS = {
    ADAPTER: MANIFEST,
    ATTRIBUTED: ATTRIBUTED_MANIFEST,
    scene.ADAPTER: scene.MANIFEST,
}


def epochs() -> dict[str, Any]:
    """The channel of receipt.json, and another one by other parties for another adapter."""
    golden = [verify_receipt(signed, NETWORK) for _, signed, _ in chain()]
    other = _other_channel()
    history = History(NETWORK)
    return {
        "network": network(),
        "manifests": {digest.hex(): data.hex() for digest, data in MANIFESTS.items()},
        "epochs": [
            _epoch(history, [*golden[:2], *other[:1]]),
            _epoch(history, [*golden[2:], *other[1:]]),
        ],
    }


def _other_channel() -> list[VerifiedReceipt]:
    """A receipt for another adapter, one for the bare base by the owner of the first channel's
    node, and one that only its node signed.
    """
    tip = ChannelTip(scene.config())
    found = []
    for adapter, owner, client in (
        (scene.ADAPTER, scene.address("owner"), "client"),
        (BARE_BASE, OWNER, "client"),
        (BARE_BASE, scene.address("owner"), None),
    ):
        body = scene.receipt(tip, adapter=adapter, owner=owner, tokens=len(found))
        found.append(verify_receipt(scene.sign(body, client), NETWORK))
        tip = scene.follow(tip, found[-1])
    return found


def _epoch(history: History, receipts: Sequence[VerifiedReceipt]) -> dict[str, Any]:
    configs: dict[bytes, ChannelConfig] = {
        channel_id(config, NETWORK): config for config in (CONFIG, scene.config())
    }
    data = compose(receipts, configs, history.state)
    batch = decode_batch(data)
    header = history.append(data, MANIFESTS, policies=POLICIES).header
    state = history.state
    return {
        "batch": data.hex(),
        "cid": str(Cid.of(data)),
        "opened": [
            {"channel_id": channel_id(config, NETWORK).hex(), "config": named(config)}
            for config in batch.opened
        ],
        "adapters": [digest.hex() for digest in batch.adapters],
        "leaves": [leaf_of(decode_receipt(entry).body).hex() for entry in batch.receipts],
        "channels": [_channel(state, index) for index in range(state.channels.size)],
        "accounts": [_account(state, index) for index in range(state.accounts.size)],
        "header": named_header(header),
    }


def _channel(state: EpochState, index: int) -> dict[str, Any]:
    leaf = state.channel(index).leaf
    return {
        "channel_id": leaf.channel_id.hex(),
        "sequence": leaf.sequence,
        "cumulative": leaf.cumulative,
        "payouts": leaf.payouts.hex(),
        "body": leaf.body.hex(),
        "evidence": leaf.evidence.hex(),
        "content": leaf.encoded.hex(),
        "rows": [
            {"account": who.hex(), "amount": amount} for who, amount in state.payouts(index).rows
        ],
    }


def _account(state: EpochState, index: int) -> dict[str, Any]:
    leaf = state.account(index).leaf
    entries = [state.entry(index, number) for number in range(state.account(index).num_entries)]
    return {
        "account": leaf.account.hex(),
        "amount": leaf.amount,
        "entries_commitment": leaf.entries.hex(),
        "content": leaf.encoded.hex(),
        "entries": [
            {
                "channel_id": entry.channel_id.hex(),
                "amount": entry.amount,
                "channel_index": entry.channel_index,
                "place": entry.place,
                "content": entry.encoded.hex(),
            }
            for entry in entries
        ],
    }

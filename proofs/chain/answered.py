"""Reads what was answered to a demand, and what a promise was demanded with: it stands in the call
of whoever answered or demanded.

Believes nothing of it: the contract checked it when it took it.
"""

from __future__ import annotations

from typing import Any

from ..court import (
    AbsentAnswer,
    AccountAnswer,
    Answer,
    ChannelAnswer,
    EntryAnswer,
    Part,
    Question,
)
from ..epoch import AccountLeaf, ChannelLeaf, EntryLeaf, PayoutLeaf, Shown
from ..hextext import from_hex
from ..promise import Promise, Reminder
from ..receipt import NO_SIGNATURE, SignedReceipt
from ..sumtree import Opening, Proof, SumNode
from ..voucher import ChannelConfig


def decode_answer(name: str, values: tuple[Any, ...]) -> Answer | None:
    """An answer from the call that brought it: the function's name, and its values. None when it is
    no answering function.
    """
    values = values[1:]  # the first is the header
    match name:
        case "answerChannel":
            channel, config, signature = values
            return ChannelAnswer(_channel(channel), _config(config), bytes(signature))
        case "answerAccount":
            account, entries = values
            return AccountAnswer(_account(account), _opening(entries))
        case "answerEntry":
            account, entry, channel, payout = values
            return EntryAnswer(
                _account(account), _entry(entry), _channel(channel), payout=_payout(payout)
            )
        case "answerAbsent":
            asked, account, opening = values
            shown = _account(account)
            return AbsentAnswer(
                Question(Part(asked[0]), asked[1], asked[2]),
                shown if any(shown.leaf.entries) else None,
                _opening(opening),
            )
    return None


def decode_reminder(name: str, values: tuple[Any, ...]) -> Reminder | None:
    """What a promise was demanded with; None when the call is another one."""
    if name != "stand":
        return None
    pledge, signature, config, _, body, node_signature, manifest = values[0]
    channel, sequence, cumulative, digest, deadline = pledge
    promise = Promise(
        bytes(channel),
        sequence,
        cumulative,
        body=bytes(digest),
        deadline=deadline,
        signature=bytes(signature),
    )
    signed = SignedReceipt(bytes(body), bytes(node_signature), NO_SIGNATURE)
    return Reminder(promise, _config(config), signed, bytes(manifest))


def _channel(value: Any) -> Shown[ChannelLeaf]:
    (channel_id, sequence, cumulative, payouts, body, evidence), proof = value
    leaf = ChannelLeaf(
        bytes(channel_id),
        sequence,
        cumulative,
        bytes(payouts),
        body=bytes(body),
        evidence=bytes(evidence),
    )
    return Shown(leaf, _proof(proof))


def _account(value: Any) -> Shown[AccountLeaf]:
    (account, amount, entries), proof = value
    return Shown(AccountLeaf(_address(account), amount, bytes(entries)), _proof(proof))


def _entry(value: Any) -> Shown[EntryLeaf]:
    (channel_id, amount, channel_index, place), proof = value
    return Shown(EntryLeaf(bytes(channel_id), amount, channel_index, place), _proof(proof))


def _payout(value: Any) -> Shown[PayoutLeaf]:
    (account, amount), proof = value
    return Shown(PayoutLeaf(_address(account), amount), _proof(proof))


def _config(value: Any) -> ChannelConfig:
    payer, authorizer, receiver, receiver_authorizer, token, delay, salt = value
    return ChannelConfig(
        _address(payer),
        _address(authorizer),
        _address(receiver),
        _address(receiver_authorizer),
        _address(token),
        withdraw_delay=delay,
        salt=bytes(salt),
    )


def _proof(value: Any) -> Proof:
    index, size, siblings = value
    return Proof(index, size, tuple(SumNode(sum_, bytes(hash_)) for sum_, hash_ in siblings))


def _opening(value: Any) -> Opening:
    size, sum_, root = value
    return Opening(size, sum_, bytes(root))


def _address(value: Any) -> bytes:
    return from_hex(value) if isinstance(value, str) else bytes(value)

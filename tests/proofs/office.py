"""The settlement contract's judgement, written down again in plain Python: what of court.py's
accusations and answers it accepts. Mirrors contracts/src/court; stands on no tree of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proofs.court import (
    AbsentAnswer,
    AccountAnswer,
    AccountMissummed,
    AccountTwice,
    Accusation,
    AfterExit,
    Answer,
    ChannelAnswer,
    ChannelMissummed,
    ChannelTwice,
    EntryAnswer,
    EntryTwice,
    ExitRequest,
    Forged,
    Lowered,
    Missummed,
    Part,
    Question,
    TakenBack,
    Unbacked,
    Unfunded,
)
from proofs.digest import Network, keccak
from proofs.epoch import ChannelLeaf, EpochHeader, PayoutLeaf, Shown
from proofs.errors import BadSignature
from proofs.receipt import signed_digest
from proofs.signing import recover
from proofs.sumtree import Opening
from proofs.voucher import ChannelConfig, channel_id


class Refused(Exception):
    """The contract reverts."""


def require(holds: bool, why: str) -> None:
    if not holds:
        raise Refused(why)


def commitment(size: int, total: int, root: bytes) -> bytes:
    return keccak(b"\2" + size.to_bytes(8, "big") + total.to_bytes(16, "big") + root)


def commitment_of(shown: Shown[Any]) -> bytes:
    """Climb as RFC 9162, 2.1.3.2 does."""
    index = shown.proof.index
    last = shown.proof.size - 1
    require(0 <= index <= last, "BadProof")
    total = shown.leaf.amount if not isinstance(shown.leaf, ChannelLeaf) else shown.leaf.cumulative
    root = keccak(b"\0" + shown.leaf.encoded)
    for other in shown.proof.siblings:
        require(last != 0, "BadProof")
        pair = [total.to_bytes(16, "big") + root, other.sum.to_bytes(16, "big") + other.hash]
        if index & 1 or index == last:
            pair.reverse()
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        root = keccak(b"\1" + pair[0] + pair[1])
        total += other.sum
        require(total < 1 << 128, "overflow")
        index >>= 1
        last >>= 1
    require(last == 0, "BadProof")
    return commitment(shown.proof.size, total, root)


def opened(opening: Opening) -> bytes:
    return commitment(opening.size, opening.sum, opening.root)


@dataclass
class Office:
    """The posted headers (by epoch, with the time of each post), and what the chain knows."""

    network: Network
    aggregator: bytes
    claimed: dict[bytes, int] = field(default_factory=dict)
    left_at: dict[bytes, int] = field(default_factory=dict)
    posted: list[tuple[EpochHeader, int]] = field(default_factory=list)

    def convicts(self, accusation: Accusation, epoch: int) -> bool:
        try:
            self.judge(accusation, epoch)
        except Refused:
            return False
        return True

    def accepts(self, answer: Answer, question: Question, epoch: int) -> bool:
        try:
            self.hear(answer, question, epoch)
        except Refused:
            return False
        return True

    def judge(self, lie: Accusation, epoch: int) -> None:
        """Raise Refused unless this convicts the header of this epoch."""
        header, posted_at = self.posted[epoch - 1]
        before = self.posted[epoch - 2][0] if epoch > 1 else None

        def check_channel(shown: Shown[ChannelLeaf]) -> None:
            require(commitment_of(shown) == header.channels_root, "BadProof")

        def check_earlier(shown: Shown[ChannelLeaf]) -> None:
            require(before is not None, "NotALie")
            assert before is not None
            require(commitment_of(shown) == before.channels_root, "BadProof")

        def check_account(shown: Shown[Any]) -> None:
            require(commitment_of(shown) == header.payout_root, "BadProof")

        if isinstance(lie, Unfunded):
            check_channel(lie.channel)
            leaf = lie.channel.leaf
            require(leaf.cumulative > self.claimed.get(leaf.channel_id, 0), "NotALie")
        elif isinstance(lie, Forged):
            check_channel(lie.channel)
            leaf = lie.channel.leaf
            require(channel_id(lie.config, self.network) == leaf.channel_id, "NotOurChannel")
            require(
                not self._is_ours(lie.config)
                or self._is_forged(leaf, lie.config, lie.node_signature),
                "NotALie",
            )
        elif isinstance(lie, Missummed):
            roots = (header.channels_root, header.payout_root)
            require(opened(lie.opening) in roots, "BadProof")
            require(not _adds_to(lie.opening, header.payout_total), "NotALie")
        elif isinstance(lie, ChannelMissummed):
            check_channel(lie.channel)
            require(opened(lie.payouts) == lie.channel.leaf.payouts, "BadProof")
            require(not _adds_to(lie.payouts, lie.channel.leaf.cumulative), "NotALie")
        elif isinstance(lie, AccountMissummed):
            check_account(lie.account)
            require(opened(lie.entries) == lie.account.leaf.entries, "BadProof")
            require(not _adds_to(lie.entries, lie.account.leaf.amount), "NotALie")
        elif isinstance(lie, Unbacked):
            check_account(lie.account)
            require(commitment_of(lie.entry) == lie.account.leaf.entries, "BadProof")
            require(
                not self._is_backed(header, lie.account, lie.entry, lie.channel, lie.payout),
                "NotALie",
            )
        elif isinstance(lie, ChannelTwice):
            check_channel(lie.one)
            check_channel(lie.other)
            require(lie.one.leaf.channel_id == lie.other.leaf.channel_id, "NotALie")
            require(lie.one.proof.index != lie.other.proof.index, "NotALie")
        elif isinstance(lie, AccountTwice):
            check_account(lie.one)
            check_account(lie.other)
            require(lie.one.leaf.account == lie.other.leaf.account, "NotALie")
            require(lie.one.proof.index != lie.other.proof.index, "NotALie")
        elif isinstance(lie, EntryTwice):
            check_account(lie.account)
            require(commitment_of(lie.one) == lie.account.leaf.entries, "BadProof")
            require(commitment_of(lie.other) == lie.account.leaf.entries, "BadProof")
            require(lie.one.leaf.channel_id == lie.other.leaf.channel_id, "NotALie")
            require(lie.one.proof.index != lie.other.proof.index, "NotALie")
        elif isinstance(lie, TakenBack):
            check_earlier(lie.earlier)
            check_channel(lie.later)
            index = lie.earlier.proof.index
            require(
                lie.later.proof.size <= index
                or (lie.later.proof.index == index and not _goes_on(lie.earlier, lie.later)),
                "NotALie",
            )
        elif isinstance(lie, Lowered):
            check_earlier(lie.earlier)
            check_channel(lie.later)
            require(lie.earlier.proof.index == lie.later.proof.index, "BadProof")
            require(commitment_of(lie.owed_earlier) == lie.earlier.leaf.payouts, "BadProof")
            require(commitment_of(lie.owed_later) == lie.later.leaf.payouts, "BadProof")
            owed = lie.owed_earlier
            now = lie.owed_later
            require(
                now.proof.size <= owed.proof.index
                or (
                    now.proof.index == owed.proof.index
                    and (
                        now.leaf.account != owed.leaf.account or now.leaf.amount < owed.leaf.amount
                    )
                ),
                "NotALie",
            )
        elif isinstance(lie, AfterExit):
            check_channel(lie.channel)
            left_at = self.left_at.get(lie.channel.leaf.channel_id, (1 << 64) - 1)
            require(posted_at > left_at, "NotALie")
            if epoch > 1:
                require(lie.earlier is not None, "BadProof")
                assert lie.earlier is not None
                check_earlier(lie.earlier)
                index = lie.channel.proof.index
                require(
                    lie.earlier.proof.size <= index
                    or (
                        lie.earlier.proof.index == index
                        and lie.channel.leaf.sequence > lie.earlier.leaf.sequence
                    ),
                    "NotALie",
                )

    def hear(self, answer: Answer, question: Question, epoch: int) -> None:
        """Raise Refused unless this answers the demand."""
        header, _ = self.posted[epoch - 1]
        if isinstance(answer, ChannelAnswer):
            leaf = answer.channel.leaf
            require(commitment_of(answer.channel) == header.channels_root, "BadProof")
            require(
                channel_id(answer.config, self.network) == leaf.channel_id
                and self._is_ours(answer.config)
                and not self._is_forged(leaf, answer.config, answer.node_signature)
                and leaf.cumulative <= self.claimed.get(leaf.channel_id, 0),
                "NoAnswer",
            )
            require(question == Question(Part.CHANNEL, answer.channel.proof.index), "NoSuchDemand")
        elif isinstance(answer, AccountAnswer):
            require(commitment_of(answer.account) == header.payout_root, "BadProof")
            require(
                opened(answer.entries) == answer.account.leaf.entries
                and _adds_to(answer.entries, answer.account.leaf.amount),
                "NoAnswer",
            )
            require(question == Question(Part.ACCOUNT, answer.account.proof.index), "NoSuchDemand")
        elif isinstance(answer, EntryAnswer):
            require(commitment_of(answer.account) == header.payout_root, "BadProof")
            require(commitment_of(answer.entry) == answer.account.leaf.entries, "BadProof")
            backed = self._is_backed(
                header, answer.account, answer.entry, answer.channel, answer.payout
            )
            require(backed, "NoAnswer")
            index = answer.account.proof.index
            asked = Question(Part.ENTRY, index, answer.entry.proof.index)
            require(question == asked, "NoSuchDemand")
        else:
            self._hear_absence(answer, header, question)

    def _hear_absence(self, answer: AbsentAnswer, header: EpochHeader, question: Question) -> None:
        require(answer.question == question, "NoSuchDemand")
        is_channel = question.part == Part.CHANNEL
        tree = header.channels_root if is_channel else header.payout_root
        index = question.index
        if question.part == Part.ENTRY and answer.account is not None:
            require(commitment_of(answer.account) == header.payout_root, "BadProof")
            require(answer.account.proof.index == index, "NoAnswer")
            tree = answer.account.leaf.entries
            index = question.entry
        require(opened(answer.opening) == tree and index >= answer.opening.size, "NoAnswer")

    def settles(self, request: ExitRequest) -> int:
        """Return what an exit pays, from the last header. Raises Refused."""
        receipt = request.receipt
        channel = receipt.channel_id
        require(channel_id(request.config, self.network) == channel, "NotOurChannel")
        require(self._is_ours(request.config), "NotOurChannel")
        operator = request.config.receiver_authorizer
        require(self._signer(receipt, request.node_signature) == operator, "BadReceiptSignature")
        if request.client_signature:
            signer = self._signer(receipt, request.client_signature)
            parties = (request.config.payer, request.config.payer_authorizer)
            require(signer in parties, "BadReceiptSignature")
        require(receipt.cumulative <= self.claimed.get(channel, 0), "Unclaimed")
        if request.base is None:
            require(not request.paid, "WrongPayouts")
        else:
            require(commitment_of(request.base) == self.posted[-1][0].channels_root, "BadProof")
            require(request.base.leaf.channel_id == channel, "BadProof")
            require(receipt.sequence > request.base.leaf.sequence, "NotBeyond")
            require(_commit(request.paid) == request.base.leaf.payouts, "WrongPayouts")
        require(_commit(request.owed) == receipt.payouts, "WrongPayouts")
        total = sum(line.amount for line in request.owed)
        require(total == receipt.cumulative, "WrongPayouts")
        require(len(request.paid) <= len(request.owed), "WrongPayouts")
        for was, now in zip(request.paid, request.owed, strict=False):
            require(was.account == now.account and was.amount <= now.amount, "WrongPayouts")
        return total - sum(line.amount for line in request.paid)

    def _is_ours(self, config: ChannelConfig) -> bool:
        return config.receiver == self.network.settlement and config.token == self.network.token

    def _is_forged(self, leaf: ChannelLeaf, config: ChannelConfig, node_signature: bytes) -> bool:
        require(keccak(node_signature) == leaf.evidence, "BadProof")
        return self._signer(leaf, node_signature) != config.receiver_authorizer

    def _signer(self, leaf: ChannelLeaf, signature: bytes) -> bytes | None:
        digest = signed_digest(
            leaf.channel_id,
            leaf.sequence,
            leaf.cumulative,
            leaf.payouts,
            body=leaf.body,
            network=self.network,
        )
        try:
            return recover(digest, signature)
        except BadSignature:
            return None

    def _is_backed(
        self,
        header: EpochHeader,
        account: Shown[Any],
        entry: Shown[Any],
        channel: Shown[ChannelLeaf],
        payout: Shown[PayoutLeaf] | None,
    ) -> bool:
        require(commitment_of(channel) == header.channels_root, "BadProof")
        if channel.proof.size <= entry.leaf.channel_index:
            return False
        require(channel.proof.index == entry.leaf.channel_index, "BadProof")
        if channel.leaf.channel_id != entry.leaf.channel_id:
            return False
        require(payout is not None, "BadProof")
        assert payout is not None
        require(commitment_of(payout) == channel.leaf.payouts, "BadProof")
        if payout.proof.size <= entry.leaf.place:
            return False
        require(payout.proof.index == entry.leaf.place, "BadProof")
        return (payout.leaf.account, payout.leaf.amount) == (
            account.leaf.account,
            entry.leaf.amount,
        )


def _adds_to(opening: Opening, amount: int) -> bool:
    return opening.sum == amount and opening.size != 0


def _goes_on(earlier: Shown[ChannelLeaf], later: Shown[ChannelLeaf]) -> bool:
    was = earlier.leaf
    now = later.leaf
    if was.channel_id != now.channel_id:
        return False
    if now.sequence == was.sequence:
        return (now.body, now.payouts, now.cumulative) == (was.body, was.payouts, was.cumulative)
    return now.sequence > was.sequence and now.cumulative >= was.cumulative


def _commit(lines: tuple[PayoutLeaf, ...]) -> bytes:
    """The commitment of a tree whose every leaf is at hand, pairs level by level."""
    level = [(line.amount, keccak(b"\0" + line.encoded)) for line in lines]
    while len(level) > 1:
        pairs = [level[start : start + 2] for start in range(0, len(level), 2)]
        level = [_join(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    total, root = level[0] if level else (0, bytes(32))
    return commitment(len(lines), total, root)


def _join(left: tuple[int, bytes], right: tuple[int, bytes]) -> tuple[int, bytes]:
    packed = b"".join(total.to_bytes(16, "big") + digest for total, digest in (left, right))
    return left[0] + right[0], keccak(b"\1" + packed)

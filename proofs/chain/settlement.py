"""Follows the header chain, claims payouts, settles channels that leave, and minds the aggregator's
office: the calls of the settlement contract.

A call that the contract refuses raises ContractReverted, and nothing is sent. Headers are posted by
poster.py, lies are shown to the court (court.py). Knows not what a header's receipts say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from functools import cached_property
from typing import TYPE_CHECKING

from ..court import ExitRequest
from ..epoch import AccountLeaf, ChannelLeaf, EpochHeader, PayoutLeaf, Shown
from ..hextext import from_hex
from ..voucher import NO_ADDRESS, ChannelConfig
from .contract import DeployedContract
from .court import Court
from .errors import ContractReverted, OddAnswer
from .structs import (
    ANYWHERE,
    NO_CHANNEL,
    Anchor,
    Board,
    ChannelExit,
    ForcedReceipt,
    Office,
    PendingExit,
    PostedHeader,
    SettlementState,
    Terms,
    board_values,
    config_values,
    header_values,
    posted_values,
    read_posted,
    receipt_values,
    shown_values,
)
from .token import Token
from .views import LATEST, View

if TYPE_CHECKING:
    from .wallet import TransactionReceipt

PAGE_BLOCKS = 5_000


NEVER = (1 << 64) - 1
STATE = (
    "lastEpoch",
    "lastPostedAt",
    "numReceipts",
    "payoutTotal",
    "totalPaid",
    "totalExited",
)
"""What a SettlementState is read from, but for the last header's hash."""


class Settlement:
    """One network's settlement contract, for one key. No header is older than `first_block`."""

    def __init__(self, contract: DeployedContract, first_block: int) -> None:
        self._contract = contract
        self._first_block = first_block

    @cached_property
    def court(self) -> Court:
        """The one that convicts."""
        address = from_hex(self._contract.read_one("court"))
        return Court(self._contract.beside("Court", address), self._token, self.terms)

    @cached_property
    def terms(self) -> Terms:
        """What was fixed at the deployment."""
        return Terms(*self._contract.read_one("terms"))

    def read(self) -> SettlementState:
        """The end of the header chain."""
        epoch, posted_at, num_receipts, payout_total, total_paid, total_exited = (
            self._contract.read_together(*STATE)
        )
        return SettlementState(
            epoch=epoch,
            header_hash=self.find_header_hash(epoch) or bytes(32),
            posted_at=posted_at,
            num_receipts=num_receipts,
            payout_total=payout_total,
            total_paid=total_paid,
            total_exited=total_exited,
        )

    # ── headers ──

    def encode_post(
        self,
        header: EpochHeader,
        witness_signatures: Sequence[bytes] = (),
        anchor: Anchor = ANYWHERE,
    ) -> tuple[bytes, bytes]:
        """The contract and the call data of a post, for the poster to sign and send.

        The signatures of a quorum go by ascending address of the witnesses (witness.py).
        """
        values = (header_values(header), list(witness_signatures), astuple(anchor))
        return self._contract.address, self._contract.encode("post", *values)

    def find_header_hash(self, epoch: int) -> bytes | None:
        """The hash of a posted header that was not taken back."""
        posted = self.find_header(epoch)
        return None if posted is None else posted.header.hash

    def find_header(self, epoch: int) -> PostedHeader | None:
        """A posted header that was not taken back, from its event."""
        if not 0 < epoch <= int(self._contract.read_one("lastEpoch")):
            return None
        word = bytes(self._contract.read_one("posted", epoch))
        wanted = {"epoch": epoch}
        return next((each for each in self._search_back(wanted) if each.word == word), None)

    def last_epoch(self) -> int:
        """The last posted header's epoch; 0 before the first."""
        return int(self._contract.read_one("lastEpoch"))

    def last_posted_at(self, block: str | int = LATEST) -> int:
        """When the last header was posted, as a block has it, in Unix seconds of the chain; 0
        before the first.
        """
        return int(self._contract.read_one("lastPostedAt", block=block))

    def headers(self) -> Iterator[PostedHeader]:
        """All posted headers in their order, without those that were taken back.

        Raises OddAnswer where the node shows none of an epoch that it says was posted.
        """
        last = int(self._contract.read_one("lastEpoch"))
        standing = {each.header.epoch: each for each in self._search({})}
        for epoch in range(1, last + 1):
            if epoch not in standing:
                raise OddAnswer(f"the node counts {last} headers and shows none of epoch {epoch}")
            yield standing[epoch]

    def is_final(self, posted: PostedHeader) -> bool:
        """Whether claims are paid under this header."""
        return bool(self._contract.read_one("isFinal", posted_values(posted)))

    def is_posted(self, posted: PostedHeader) -> bool:
        """Whether this header was not taken back."""
        return bool(self._contract.read_one("isPosted", posted.header.epoch, posted.word))

    def find_final(self, posted: PostedHeader) -> bool | None:
        """Whether claims are paid under this header; None where it was taken back."""
        try:
            return self.is_final(posted)
        except ContractReverted as error:
            if error.error != "UnknownHeader":
                raise
            return None

    def _search_back(self, wanted: dict[str, int]) -> Iterator[PostedHeader]:
        """The newest first, since who asks for one header mostly asks for one of the last."""
        end = self._contract.rpc.block_number()
        while end >= self._first_block:
            start = max(end - PAGE_BLOCKS + 1, self._first_block)
            events = self._contract.events("Posted", wanted, first=start, last=end)
            yield from reversed([*map(read_posted, events)])
            end = start - 1

    def _search(self, wanted: dict[str, int]) -> Iterator[PostedHeader]:
        last = self._contract.rpc.block_number()
        events = self._contract.events("Posted", wanted, first=self._first_block, last=last)
        return map(read_posted, events)

    # ── payouts ──

    def paid_to(self, account: bytes) -> int:
        """What `account` was paid under headers so far."""
        return int(self._contract.read_one("claimed", account))

    def claim(self, posted: PostedHeader, account: Shown[AccountLeaf]) -> TransactionReceipt:
        """Have an account paid what it was awarded up to a final header and not paid yet.

        Anybody may send this.
        """
        return self._contract.send("claim", posted_values(posted), *shown_values(account))

    def credit_of(self, account: bytes) -> int:
        """What waits for `account` to be collected: a released bond, a fee, a refused payment."""
        return int(self._contract.read_one("credit", account))

    def collect(self, account: bytes) -> TransactionReceipt:
        """Send an account what is credited to it. Anybody may."""
        return self._contract.send("collect", account)

    # ── the aggregator's office ──

    def aggregator(self) -> bytes:
        """Who may post headers; zeros while the office is vacant."""
        return from_hex(self._contract.read_one("aggregator"))

    def read_office(self) -> Office:
        """Who holds the office, and on what terms."""
        holder, bond, term, silent_from = self._contract.read_together(
            "aggregator", "bond", "term", "silentFrom"
        )
        aggregator = from_hex(holder)
        return Office(
            aggregator=None if aggregator == NO_ADDRESS else aggregator,
            bond=bond,
            term=term,
            silent_from=silent_from,
        )

    def convicted(self, term: int) -> bytes | None:
        """The aggregator that was convicted in a term of the office; None where none was."""
        aggregator = from_hex(self._contract.read_one("convicted", term))
        return None if aggregator == NO_ADDRESS else aggregator

    def silent_from(self, block: str | int) -> int:
        """From when on the aggregator can be dismissed, as a block has it."""
        return int(self._contract.read_one("silentFrom", block=block))

    def owner(self) -> bytes:
        """Who may propose a board."""
        return from_hex(self._contract.read_one("owner"))

    def witnesses(self) -> tuple[tuple[bytes, ...], int]:
        """The witnesses, and how many of them must sign a header."""
        found, quorum = self._contract.read_together("witnesses", "quorum")
        return tuple(map(from_hex, found)), int(quorum)

    def fund_bond(self, amount: int) -> TransactionReceipt:
        """Add our money to the bond of whoever is aggregator."""
        self._token.allow(self._contract.address, amount)
        return self._contract.send("fundBond", amount)

    def say_alive(self) -> TransactionReceipt:
        """Say that we are there, when there is nothing to post. We are the aggregator."""
        return self._contract.send("alive")

    def dismiss(self) -> TransactionReceipt:
        """End the office of an aggregator that was silent too long. Anybody may."""
        return self._contract.send("dismiss")

    def propose(self, board: Board) -> TransactionReceipt:
        """Propose a board, effective after the timelock. We are the owner."""
        return self._contract.send("propose", board_values(board))

    def install(self, board: Board) -> TransactionReceipt:
        """Install the proposed board when its timelock is over. Anybody may."""
        return self._contract.send("install", board_values(board))

    # ── channels that leave ──

    def force(
        self, config: ChannelConfig, receipt: ChannelLeaf, node_signature: bytes
    ) -> TransactionReceipt:
        """Put a receipt on chain that the aggregator ignored; costs the fee of a demand."""
        self._token.allow(self._contract.address, self.terms.demand_fee)
        values = (config_values(config), receipt_values(receipt), node_signature)
        return self._contract.send("force", *values)

    def answer_forced(
        self, posted: PostedHeader, channel: Shown[ChannelLeaf]
    ) -> TransactionReceipt:
        """Show that a header has a forced receipt, or a later one of its channel."""
        return self._contract.send("answerForced", posted_values(posted), shown_values(channel))

    def find_forced(self, channel_id: bytes) -> ForcedReceipt | None:
        """The forced receipt of a channel that nobody has answered."""
        _, deadline, sequence = self._contract.read("forced", channel_id)
        return ForcedReceipt(channel_id, sequence, deadline) if deadline else None

    def forced(self, first: int, last: int) -> Iterator[bytes]:
        """The channels of receipts that were put on chain between two blocks, both included."""
        for event in self._contract.events("Forced", {}, first=first, last=last):
            yield bytes(event["args"]["channelId"])

    def left_at_many(
        self, channel_ids: Sequence[bytes], block: str | int = LATEST
    ) -> dict[bytes, int]:
        """Those of these channels that have left at a block, each with the second after which no
        header may move it.
        """
        views = [
            View(self._contract.name, self._contract.address, "leftAt", (channel_id,))
            for channel_id in channel_ids
        ]
        found = self._contract.rpc.read_many(views, block)
        left = {channel: at for channel, (at,) in zip(channel_ids, found, strict=True)}
        return {channel: at for channel, at in left.items() if at < NEVER}

    def left_at(self, channel_id: bytes) -> int:
        """The second after which no header may move a channel; 2^64 - 1 while headers may."""
        return int(self._contract.read_one("leftAt", channel_id))

    def exit(self, request: ExitRequest, posted: PostedHeader | None) -> TransactionReceipt:
        """Settle a channel by a receipt, going on from a final header, or None before the first.

        Paid at once where both signed and the header has the channel; else after the window, by
        `finish_exit`.
        """
        values = (
            config_values(request.config),
            receipt_values(request.receipt),
            request.node_signature,
            request.client_signature,
            posted_values(posted),
            shown_values(request.base or NO_CHANNEL),
            _lines(request.paid),
            _lines(request.owed),
        )
        return self._contract.send("exit", values)

    def cancel_exit(self, posted: PostedHeader, channel: Shown[ChannelLeaf]) -> TransactionReceipt:
        """Show the leaf of a channel whose pending exit says that there is none."""
        return self._contract.send("cancelExit", posted_values(posted), shown_values(channel))

    def finish_exit(
        self, channel_id: bytes, paid: Sequence[PayoutLeaf], owed: Sequence[PayoutLeaf]
    ) -> TransactionReceipt:
        """Have a pending exit paid whose window is over."""
        return self._contract.send("finishExit", channel_id, _lines(paid), _lines(owed))

    def find_exit(self, channel_id: bytes) -> ChannelExit | None:
        """Where exits settled a channel to."""
        found = ChannelExit(*self._contract.read("exited", channel_id))
        return found if found.sequence else None

    def find_pending_exit(self, channel_id: bytes) -> PendingExit | None:
        """The exit of a channel that is under way."""
        payouts, _, cumulative, sequence, due_at, absent_from, _, is_cosigned = self._contract.read(
            "pendingExits", channel_id
        )
        if not sequence:
            return None
        return PendingExit(
            payouts, cumulative, sequence, due_at, is_cosigned=is_cosigned, absent_from=absent_from
        )

    def exits_begun(self, first: int, last: int) -> Iterator[bytes]:
        """The channels whose exits were begun between two blocks, both included, and waited."""
        for event in self._contract.events("ExitStarted", {}, first=first, last=last):
            yield bytes(event["args"]["channelId"])

    @cached_property
    def _token(self) -> Token:
        address = from_hex(self._contract.read_one("token"))
        return Token(self._contract.beside("IFeeToken", address))


def _lines(payouts: Sequence[PayoutLeaf]) -> list[tuple[bytes, int]]:
    return [(each.account, each.amount) for each in payouts]

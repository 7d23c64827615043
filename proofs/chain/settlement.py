"""Follows the header chain and claims payouts: the calls of the settlement contract.

A call that the contract refuses raises ContractReverted, and nothing is sent. Headers are posted by
poster.py. Knows no channel, and not what a header's receipts say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..epoch import EpochHeader
from ..hextext import from_hex
from ..sumtree import PayoutProof
from .contract import DeployedContract
from .structs import PostedHeader, SettlementState, header_values, proof_values, read_posted

if TYPE_CHECKING:
    from .wallet import TransactionReceipt


class Settlement:
    """One network's settlement contract, for one key. No header is older than `first_block`."""

    def __init__(self, contract: DeployedContract, first_block: int) -> None:
        self._contract = contract
        self._first_block = first_block

    def aggregator(self) -> bytes:
        """Who may post headers."""
        return from_hex(self._contract.read_one("aggregator"))

    def read(self) -> SettlementState:
        """The end of the header chain."""
        epoch = int(self._contract.read_one("lastEpoch"))
        return SettlementState(
            epoch=epoch,
            header_hash=self.find_header_hash(epoch) or bytes(32),
            num_receipts=self._contract.read_one("numReceipts"),
            payout_total=self._contract.read_one("payoutTotal"),
            total_paid=self._contract.read_one("totalPaid"),
        )

    # ── headers ──

    def encode_post(self, header: EpochHeader) -> tuple[bytes, bytes]:
        """The contract and the call data of a post, for the poster to sign and send."""
        return self._contract.address, self._contract.encode("post", header_values(header))

    def find_header_hash(self, epoch: int) -> bytes | None:
        """The hash of a posted header."""
        found = bytes(self._contract.read_one("headerHashes", epoch))
        return found if any(found) else None

    def find_header(self, epoch: int) -> PostedHeader | None:
        """A posted header, from its event."""
        return next(self._search({"epoch": epoch}), None)

    def headers(self) -> Iterator[PostedHeader]:
        """All posted headers in their order."""
        return self._search({})

    def _search(self, wanted: dict[str, int]) -> Iterator[PostedHeader]:
        last = self._contract.rpc.block_number()
        events = self._contract.events("Posted", wanted, first=self._first_block, last=last)
        return map(read_posted, events)

    # ── payouts ──

    def paid_to(self, account: bytes) -> int:
        """What `account` was paid so far."""
        return int(self._contract.read_one("claimed", account))

    def claim(self, header: EpochHeader, proof: PayoutProof) -> TransactionReceipt:
        """Have the proof's account paid what it was awarded up to this header and not paid yet.

        Anybody may send this.
        """
        return self._contract.send("claim", header_values(header), *proof_values(proof))

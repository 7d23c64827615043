"""Recomputes what the aggregator posted, from the chain's headers and the published batches alone.

Believes no node.

header on the chain → batch by its digest, from whoever has it → recompute
    → the same header, or AuditFailed
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from node.threads import in_thread
from p2p.blocks.client import fetch_block
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.host import Host
from p2p.peers import PeerAddress
from proofs.attribution.shares import CONTRIBUTOR, CREATOR, NODE, split
from proofs.batch import MAX_BATCH_BYTES, decode_batch
from proofs.chain.client import ChainClient
from proofs.chain.compiled import load_contract
from proofs.chain.structs import PostedHeader
from proofs.epoch import EpochHeader
from proofs.hextext import to_hex
from proofs.history import History
from proofs.receipt import Receipt, decode_body, decode_receipt
from proofs.sumtree import SumNode

FETCH_S = 30.0
CHAIN_DEADLINE_S = 30.0
Result = TypeVar("Result")
ROLES = {NODE: "node", CREATOR: "creator", CONTRIBUTOR: "contributor"}


class AuditFailed(Exception):
    """What was posted is not what follows from the batches."""


@dataclass
class Earned:
    """What one address earned in one role, and for which receipts."""

    address: bytes
    role: str
    amount: int = 0
    receipts: list[Receipt] = field(default_factory=list)


@dataclass
class Audit:
    """All epochs so far, recomputed."""

    history: History
    posted: list[PostedHeader] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)

    @property
    def header(self) -> EpochHeader:
        """The newest header."""
        return self.posted[-1].header

    @property
    def payout_root(self) -> SumNode:
        """What the chain says is owed: a hash and a sum."""
        return SumNode(self.header.payout_total, self.header.payout_root)

    def append(self, posted: PostedHeader, batch: bytes) -> None:
        """Recompute one more epoch; AuditFailed when the chain has another header."""
        state = self.history.append(batch)
        if state.header != posted.header:
            raise AuditFailed(
                f"the header of epoch {posted.header.epoch} is not the one that follows from its"
                " batch"
            )
        self.posted.append(posted)
        self.receipts += [
            decode_body(decode_receipt(entry).body) for entry in decode_batch(batch).receipts
        ]

    def earned(self) -> list[Earned]:
        """Every address and role, by the receipts' own shares."""
        rows: dict[tuple[bytes, int], Earned] = {}
        for receipt in self.receipts:
            for share, part in zip(
                receipt.shares, split(receipt.amount, receipt.shares), strict=True
            ):
                row = rows.setdefault(
                    (share.address, share.role), Earned(share.address, ROLES[share.role])
                )
                row.amount += part
                row.receipts.append(receipt)
        return sorted(
            rows.values(), key=lambda row: (list(ROLES.values()).index(row.role), -row.amount)
        )


async def audit_chain(
    chain: ChainClient, watcher: Host, store: BlockStore, mirrors: Sequence[PeerAddress]
) -> Audit:
    """Fetch and recompute every epoch that was posted."""
    audit = Audit(History(chain.network))
    for posted in await on_chain(lambda: list(chain.settlement.headers())):
        batch = await fetch_block(
            watcher,
            store,
            Cid(posted.header.batch_digest),
            MAX_BATCH_BYTES,
            providers=mirrors,
            deadline_s=FETCH_S,
        )
        audit.append(posted, batch)
    return audit


def totals(earned: Sequence[Earned]) -> dict[bytes, int]:
    """What each address earned in all its roles."""
    sums: dict[bytes, int] = defaultdict(int)
    for row in earned:
        sums[row.address] += row.amount
    return dict(sums)


def find_claim(chain: ChainClient, account: bytes) -> bytes | None:
    """The newest transaction that paid this account."""
    claimed = load_contract("Settlement").find("event", "Claimed").hash
    where = {
        "fromBlock": "0x0",
        "toBlock": "latest",
        "address": to_hex(chain.deployment.settlement),
    }
    logs = chain.rpc.call(
        "eth_getLogs",
        {
            **where,
            "topics": [
                to_hex(claimed),
                to_hex(account.rjust(32, b"\0")),
            ],
        },
    )
    return bytes.fromhex(logs[-1]["transactionHash"][2:]) if logs else None


async def on_chain(call: Callable[[], Result]) -> Result:
    """A chain call, which blocks."""
    return await in_thread(call, deadline_s=CHAIN_DEADLINE_S)

"""What the demo asks of node/money/audit.py, which recomputes the chain's headers: it brings the
blocks, and adds up who earned what in which role.

Believes no node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import trio

from node.money.audit import Audit, audit_chain, shares_of
from node.threads import in_thread
from p2p.blocks.client import fetch_block
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.host import Host
from p2p.peers import PeerAddress
from proofs.attribution.shares import CONTRIBUTOR, CREATOR, NODE, split
from proofs.batch import MAX_BATCH_BYTES
from proofs.chain.client import ChainClient
from proofs.chain.governance import Governance
from proofs.receipt import Receipt

from .record import ClaimFailed

POLL_S = 0.3
FETCH_S = 30.0
CHAIN_DEADLINE_S = 60.0
Result = TypeVar("Result")
ROLES = {NODE: "node", CREATOR: "creator", CONTRIBUTOR: "contributor"}


@dataclass
class Earned:
    """What one address earned in one role, and for which receipts."""

    address: bytes
    role: str
    amount: int = 0
    receipts: list[Receipt] = field(default_factory=list)


@dataclass(frozen=True)
class Event:
    """One event of the settlement contract, and the transaction that brought it."""

    args: Mapping[str, Any]
    transaction: bytes


async def audit_with(
    host: Host,
    chain: ChainClient,
    store: BlockStore,
    holders: Sequence[PeerAddress],
    governance: Governance,
) -> Audit:
    """Recompute every header that stands; what was published is fetched by its hash."""

    def get_block(digest: bytes) -> bytes:
        fetch = partial(fetch_block, host, store, Cid(digest), MAX_BATCH_BYTES)
        return trio.from_thread.run(partial(fetch, providers=holders, deadline_s=FETCH_S))

    return await on_chain(partial(audit_chain, chain, get_block, governance))


def earned_in(audit: Audit) -> list[Earned]:
    """Every address and role, by the shares that follow from each adapter's manifest."""
    rows: dict[tuple[bytes, int], Earned] = {}
    for receipt in audit.receipts:
        shares = shares_of(audit, receipt)
        for share, part in zip(shares, split(receipt.amount, shares), strict=True):
            row = rows.setdefault(
                (share.address, share.role), Earned(share.address, ROLES[share.role])
            )
            row.amount += part
            row.receipts.append(receipt)
    roles = list(ROLES.values())
    return sorted(rows.values(), key=lambda row: (roles.index(row.role), -row.amount))


def totals(earned: Sequence[Earned]) -> dict[bytes, int]:
    """What each address earned in all its roles."""
    sums: dict[bytes, int] = defaultdict(int)
    for row in earned:
        sums[row.address] += row.amount
    return dict(sums)


def find_events(chain: ChainClient, name: str, **wanted: object) -> list[Event]:
    """The settlement contract's events of one name, oldest first; `wanted` are indexed values."""
    deployment = chain.deployment
    span = {"first": deployment.first_block, "last": chain.rpc.block_number()}
    found = chain.rpc.search("Settlement", deployment.settlement, name, wanted, **span)
    return [Event(each["args"], bytes(each["transactionHash"])) for each in found]


async def on_chain(call: Callable[[], Result]) -> Result:
    """A chain call, which blocks."""
    return await in_thread(call, deadline_s=CHAIN_DEADLINE_S)


async def wait_on_chain(look: Callable[[], Result | None], claim: str, deadline_s: float) -> Result:
    """What a look at the chain finds, as soon as it finds something. ClaimFailed after the
    deadline.
    """
    with trio.move_on_after(deadline_s):
        while True:
            found = await on_chain(look)
            if found:
                return found
            await trio.sleep(POLL_S)
    raise ClaimFailed(f"not so within {deadline_s:.0f} s: {claim}")

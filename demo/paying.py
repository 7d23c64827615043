"""Step 7: every answer's receipt is in the log on the chain, and everybody who earned something is
paid. Checked from the published batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from node.cli.show import money
from node.testnet.plan import AGGREGATOR, owner_of
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.peers import PeerAddress
from proofs.chain.client import ChainClient
from proofs.chain.devchain import FUND_DOLLARS
from proofs.chain.errors import ContractReverted
from proofs.hextext import to_hex
from proofs.sumtree import verify_payout

from .audit import Audit, Earned, audit_chain, find_claim, on_chain, totals
from .record import ClaimFailed, Step, require
from .scene import Scene

POSTED_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Paid:
    """One account's claim. `moved` is by how much its balance grew since the chain began."""

    account: bytes
    tx: bytes
    gas: int
    moved: int
    num_siblings: int


async def show_payouts(scene: Scene, step: Step) -> None:
    """Wait for the epoch, recompute it, prove every receipt and every payout, claim, look at the
    balances.
    """
    await wait_until_posted(scene, len(scene.record.answers))
    audit = await audit_chain(
        scene.chain,
        scene.watcher,
        BlockStore(scene.network.plan.home / "watcher"),
        [aggregator_of(scene)],
    )
    show_headers(scene, audit)
    await check_inclusion(scene, audit)
    earned = audit.earned()
    check_totals(audit, earned)
    paid = await claim_all(scene, audit, earned)
    show_table(scene, earned, paid)
    step.facts |= {
        "epochs": len(audit.posted),
        "receipts": len(audit.receipts),
        "payout_total": audit.header.payout_total,
    }


async def wait_until_posted(scene: Scene, num_receipts: int) -> None:
    """Until the log on the chain is as long as the answers are many."""
    with trio.move_on_after(POSTED_DEADLINE_S):
        while True:
            state = await on_chain(scene.chain.settlement.read)
            if state.num_receipts >= num_receipts:
                return
            await trio.sleep(0.5)
    raise ClaimFailed(
        f"{state.num_receipts} of {num_receipts} receipts were posted within"
        f" {POSTED_DEADLINE_S:.0f} s"
    )


def aggregator_of(scene: Scene) -> PeerAddress:
    """Where batches are published."""
    running = scene.network.nodes[AGGREGATOR].running
    return PeerAddress(running.peer_id, tuple(running.p2p))


def show_headers(scene: Scene, audit: Audit) -> None:
    """What was posted; each was recomputed from its batch."""
    gas = [gas_of(scene.chain, posted.transaction) for posted in audit.posted]
    rows = [
        (
            str(posted.header.epoch),
            str(posted.header.num_receipts),
            f"…{str(Cid(posted.header.batch_digest))[-12:]}",
            f"{cost:,}",
            scene.stage.short(to_hex(posted.transaction)),
        )
        for posted, cost in zip(audit.posted, gas, strict=True)
    ]
    scene.stage.table(("epoch", "receipts so far", "batch", "gas", "posted in"), rows)
    scene.stage.say(
        "every batch was fetched by its CID and recomputed: signatures, channels, shares, totals,"
        " roots"
    )
    scene.record.chain |= {
        "receipts_root": audit.header.receipts_root.hex(),
        "payout_root": audit.header.payout_root.hex(),
    }
    scene.record.figure("receipts_verified", len(audit.receipts))
    scene.record.figure("batch_gas", gas[-1])
    scene.record.figure("gas_per_receipt", round(sum(gas) / len(audit.receipts)))


def gas_of(chain: ChainClient, transaction: bytes) -> int:
    """What a mined transaction cost."""
    receipt = chain.wallet.find_receipt(transaction)
    require(receipt, f"transaction 0x{transaction.hex()} is mined")
    assert receipt is not None
    return receipt.gas_used


async def check_inclusion(scene: Scene, audit: Audit) -> None:
    """The client's own copy of each answer's receipt is in the log whose root is on the chain."""
    for answer in scene.record.answers:
        signed = await scene.client.receipt(answer["receipt"])
        try:
            proof = audit.history.prove_receipt(signed)
        except KeyError:
            raise ClaimFailed(f"the receipt {answer['receipt'][:16]}… is not in the log") from None
        require(
            proof.verify(signed, audit.header.receipts_root),
            f"the inclusion proof of {answer['receipt'][:16]}… holds",
        )
    scene.stage.say(
        f"{len(scene.record.answers)} inclusion proofs re-verified against the root on the chain"
    )


def check_totals(audit: Audit, earned: Sequence[Earned]) -> None:
    """Shares, receipts and the chain speak of the same sum."""
    fees = sum(receipt.amount for receipt in audit.receipts)
    require(
        sum(row.amount for row in earned) == fees == audit.header.payout_total,
        "payouts are the sum of the receipts' fees, and what the chain says",
    )
    require(
        {row.role for row in earned} == {"node", "creator", "contributor"},
        "nodes, creators and contributors earned",
    )


async def claim_all(scene: Scene, audit: Audit, earned: Sequence[Earned]) -> dict[bytes, Paid]:
    """Claim for everybody, with a proof that was checked before."""
    paid: dict[bytes, Paid] = {}
    funded = {member.address for member in scene.network.plan.members}
    for account, total in totals(earned).items():
        proof = audit.history.prove_payout(account)
        require(
            proof.amount == total and verify_payout(proof, audit.payout_root),
            f"the payout proof of 0x{account.hex()} holds",
        )
        had = FUND_DOLLARS if account in funded else 0
        paid[account] = await on_chain(partial(claim, scene.chain, audit, account, had))
    right = [one for account, one in paid.items() if one.moved == totals(earned)[account]]
    scene.record.figure("claims_ok", len(right))
    scene.record.figure("claim_gas", max(one.gas for one in paid.values()))
    require(
        len(right) == len(paid),
        f"every balance moved by what was earned ({len(right)} of {len(paid)})",
    )
    return paid


def claim(chain: ChainClient, audit: Audit, account: bytes, had: int) -> Paid:
    """Pay one account what is still owed.

    Its own node may do the same at the same time, and then it does not matter whose claim it was.
    Blocks.
    """
    proof = audit.history.prove_payout(account)
    while chain.settlement.paid_to(account) < proof.amount:
        try:
            chain.settlement.claim(audit.header, proof)
        except ContractReverted:
            if chain.settlement.paid_to(account) < proof.amount:
                raise
    tx = find_claim(chain, account)
    assert tx is not None, "whoever was paid was paid by a transaction"
    return Paid(
        account,
        tx,
        gas_of(chain, tx),
        chain.token.balance_of(account) - had,
        num_siblings=len(proof.siblings),
    )


def show_table(scene: Scene, earned: Sequence[Earned], paid: dict[bytes, Paid]) -> None:
    """Who earned what, for which answers, by which transaction, under which proof."""
    names = names_of(scene)
    short = scene.stage.short
    rows = []
    for row in earned:
        tx = to_hex(paid[row.address].tx)
        served = Counter(
            scene.adapter_of(receipt.adapter.hex() if any(receipt.adapter) else "base")
            for receipt in row.receipts
        )
        answers = " ".join(f"{name}:{count}" for name, count in sorted(served.items()))
        proof = f"{paid[row.address].num_siblings} hashes"
        rows.append(
            (
                row.role,
                names.get(row.address, "?"),
                short(to_hex(row.address)),
                money(row.amount),
                answers,
                proof,
                short(tx),
            )
        )
        scene.record.payouts.append(
            {"address": to_hex(row.address), "role": row.role, "amount": row.amount, "tx": tx}
        )
    scene.stage.table(
        ("role", "who", "address", "earned", "answers by", "proved by", "paid in"), rows
    )


def names_of(scene: Scene) -> dict[bytes, str]:
    """Whose the addresses are."""
    names = {
        owner_of(member.name): f"owner of {member.name}" for member in scene.network.plan.volunteers
    }
    for name, manifest in scene.manifests.items():
        names |= {manifest.creator_address: f"maker of {name}"} | {
            one.address: one.name for one in manifest.contributors
        }
    return names

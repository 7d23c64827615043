"""Step 8: every answer's receipt is in the log on the chain, and everybody who earned something is
paid. Checked from the published batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain as in_a_row

import trio

from node.money.audit import Audit, explain
from node.testnet.plan import owner_of
from p2p.cid import Cid
from proofs.chain.client import ChainClient
from proofs.chain.devchain import FUND_DOLLARS
from proofs.chain.errors import ContractReverted
from proofs.chain.structs import PostedHeader
from proofs.epoch import EpochHeader
from proofs.hextext import to_hex
from proofs.receipt import decode_body, decode_receipt, digest_of

from . import cast
from .audit import Earned, audit_with, earned_in, find_events, on_chain, totals, wait_on_chain
from .mixing import show_split
from .record import Step, require
from .scene import Scene

POSTED_DEADLINE_S = 60.0
FINAL_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Paid:
    """One account's claim. `moved` is by how much its balance grew since the chain began."""

    account: bytes
    tx: bytes
    gas: int
    moved: int
    num_siblings: int


async def show_payouts(scene: Scene, step: Step) -> None:
    """Wait for the epoch, recompute it, prove every receipt and every payout, claim when nobody can
    challenge it any more, look at the balances, follow every receipt to its end.
    """
    await show_terms(scene)
    await wait_until_posted(scene, len(scene.record.answers))
    audit = await audit_with(
        scene.watcher, scene.chain, scene.store, scene.holders, scene.governance
    )
    await show_headers(scene, audit)
    await check_inclusion(scene, audit)
    earned = earned_in(audit)
    check_totals(audit, earned)
    await wait_until_final(scene, audit.posted[-1])
    paid = await claim_all(scene, audit, earned)
    show_table(scene, earned, paid)
    show_split(scene, step, audit)
    await follow_receipts(scene, audit)
    step.facts |= {
        "epochs": len(audit.posted),
        "receipts": len(audit.receipts),
        "payout_total": last_header(audit).payout_total,
    }


async def show_terms(scene: Scene) -> None:
    """What an aggregator must respect, as the settlement contract says it."""
    settlement = scene.chain.settlement
    terms = await on_chain(lambda: settlement.terms)
    witnesses, quorum = await on_chain(settlement.witnesses)
    office = await on_chain(settlement.read_office)
    require(office.bond >= terms.bond, f"the aggregator's bond is whole ({office.bond})")
    scene.stage.say(
        f"a header needs {quorum} of {len(witnesses)} witnesses, can be challenged for"
        f" {terms.window} s, and answers with a bond of {cast.money(terms.bond)}"
    )


async def wait_until_posted(scene: Scene, num_receipts: int) -> None:
    """Until the log on the chain is as long as the answers are many."""
    await wait_on_chain(
        lambda: scene.chain.settlement.read().num_receipts >= num_receipts,
        f"{num_receipts} receipts are posted",
        POSTED_DEADLINE_S,
    )


async def wait_until_final(scene: Scene, posted: PostedHeader) -> None:
    """Until the header's window is over: before that nothing is paid under it."""
    epoch = posted.header.epoch
    begun_s = trio.current_time()
    await wait_on_chain(
        partial(scene.chain.settlement.is_final, posted),
        f"epoch {epoch} is final",
        FINAL_DEADLINE_S,
    )
    scene.stage.say(
        f"nobody challenged epoch {epoch}: it is final after {trio.current_time() - begun_s:.1f} s"
        " more, and claims are paid"
    )


def last_header(audit: Audit) -> EpochHeader:
    """The newest header: what the chain says is owed."""
    return audit.posted[-1].header


async def show_headers(scene: Scene, audit: Audit) -> None:
    """What was posted; each was recomputed from its batch."""
    gas = await on_chain(
        lambda: [gas_of(scene.chain, posted.transaction) for posted in audit.posted]
    )
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
        "every batch was fetched by its CID and recomputed: signatures, channels, totals, roots;"
        " shares follow from the adapters' manifests"
    )
    scene.record.chain |= {
        "receipts_root": last_header(audit).receipts_root.hex(),
        "payout_root": last_header(audit).payout_root.hex(),
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
        body = decode_receipt(signed).body
        require(
            digest_of(body) in audit.epochs, f"the receipt {answer['receipt'][:16]}… is in the log"
        )
        receipt = decode_body(body)
        proof = audit.history.state.prove_receipt(receipt.channel_id, receipt.sequence)
        require(
            proof.verify(body, last_header(audit).receipts_root),
            f"the inclusion proof of {answer['receipt'][:16]}… holds",
        )
    scene.stage.say(
        f"{len(scene.record.answers)} inclusion proofs re-verified against the root on the chain"
    )


def check_totals(audit: Audit, earned: Sequence[Earned]) -> None:
    """Shares, receipts and the chain speak of the same sum."""
    fees = sum(receipt.amount for receipt in audit.receipts)
    require(
        sum(row.amount for row in earned) == fees == last_header(audit).payout_total,
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
        shown = audit.show_account(account)
        require(
            shown is not None
            and shown.leaf.amount == total
            and shown.commitment == last_header(audit).payout_root,
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
    shown = audit.show_account(account)
    assert shown is not None, "whoever earned something has a leaf"
    while chain.settlement.paid_to(account) < shown.leaf.amount:
        try:
            chain.settlement.claim(audit.posted[-1], shown)
        except ContractReverted:
            if chain.settlement.paid_to(account) < shown.leaf.amount:
                raise
    *_, last = find_events(chain, "Claimed", account=to_hex(account))
    tx = last.transaction
    return Paid(
        account,
        tx,
        gas_of(chain, tx),
        chain.token.balance_of(account) - had,
        num_siblings=len(shown.proof.siblings),
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
                cast.money(row.amount),
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


async def follow_receipts(scene: Scene, audit: Audit) -> None:
    """What `lorikeet why` says of every answer's receipt: each step must hold."""
    signed = [await scene.client.receipt(answer["receipt"]) for answer in scene.record.answers]
    steps = await on_chain(
        lambda: [*in_a_row(*(explain(audit, scene.chain, one) for one in signed))]
    )
    for one in steps:
        require(one.outcome == "holds", f"{one.name}: {one.detail}")
    scene.stage.say(
        f"{len(signed)} receipts followed from their signatures to the last payout: {len(steps)}"
        " steps, all hold"
    )


def names_of(scene: Scene) -> dict[bytes, str]:
    """Whose the addresses are."""
    names = {member.address: member.name for member in scene.network.plan.members}
    names |= {
        owner_of(member.name): f"owner of {member.name}" for member in scene.network.plan.volunteers
    }
    for name, manifest in scene.manifests.items():
        names |= {manifest.creator_address: f"maker of {name}"} | {
            one.address: one.name for one in manifest.contributors
        }
    return names

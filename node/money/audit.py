"""Recomputes what was posted from the chain's headers and the published blocks alone, and tells
what follows for one receipt or one account. Believes no node: it is given a chain and a way to get
blocks by their hash.

Its functions block. Claims nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from proofs.attribution.shares import AdapterTerms, Share, award
from proofs.batch import decode_batch
from proofs.chain.client import ChainClient
from proofs.chain.decisions import Decisions
from proofs.chain.governance import Governance
from proofs.chain.structs import PostedHeader
from proofs.cocktail import WEIGHT_UNIT, Cocktail, is_cocktail, parse_cocktail
from proofs.epoch import AccountLeaf, Shown
from proofs.errors import BatchError, ProofError
from proofs.hextext import to_hex
from proofs.hindsight import Settled
from proofs.history import History
from proofs.parameters import Version
from proofs.policies import UNGOVERNED, Policies
from proofs.receipt import (
    BARE_BASE,
    Receipt,
    VerifiedReceipt,
    check_fee,
    decode_body,
    decode_receipt,
    derive_shares,
    verify_receipt,
)

GetBlock = Callable[[bytes], bytes]
"""Gives a block by its sha-256; raises when it cannot be had."""
Outcome = Literal["holds", "waits", "broken"]


class AuditFailed(Exception):
    """What was posted does not follow from what was published."""


@dataclass
class Audit:
    """All headers so far, recomputed, and every receipt in them."""

    history: History
    posted: list[PostedHeader] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    policies: Policies = UNGOVERNED  # those of every version that a receipt names
    versions: tuple[Version, ...] = ()  # of the parameters, as the chain has them now
    epochs: dict[bytes, int] = field(default_factory=dict)  # by digest of a receipt's body
    cocktails: dict[bytes, Cocktail] = field(default_factory=dict)  # that receipts name

    def append(self, posted: PostedHeader, get_block: GetBlock, decisions: Decisions) -> None:
        """Recompute one more epoch. Raises AuditFailed when the chain has another header,
        ChainError.
        """
        header = posted.header
        batch = _get(get_block, header.batch_digest)
        try:
            adapters = decode_batch(batch).adapters
            manifests = {digest: _get(get_block, digest) for digest in adapters}
            policies = decisions.named_in(self.posted[-1].posted_at if self.posted else 0)
            transition = self.history.append(batch, manifests, policies=policies)
        except BatchError as error:
            raise AuditFailed(f"epoch {header.epoch} does not follow: {error}") from error
        if transition.header != header:
            raise AuditFailed(
                f"the header of epoch {header.epoch} is not the one that follows from its batch"
            )
        self.policies = policies.every
        self.posted.append(posted)
        self.cocktails |= {
            digest: parse_cocktail(data) for digest, data in manifests.items() if is_cocktail(data)
        }
        for entry in decode_batch(batch).receipts:
            body = decode_receipt(entry).body
            self.receipts.append(decode_body(body))
            self.epochs[hashlib.sha256(body).digest()] = header.epoch

    def settled(self) -> Iterator[Settled]:
        """Yield every answer of these epochs, with the terms of its adapter."""
        for receipt in self.receipts:
            yield Settled(receipt, _terms_of(self, receipt), self.policies.of(receipt.parameters))

    def show_account(self, account: bytes) -> Shown[AccountLeaf] | None:
        """Return what an account was awarded in all, with the proof under the last header here."""
        index = self.history.state.find_account(account)
        return None if index is None else self.history.state.show_account(index)


def audit_chain(
    chain: ChainClient,
    get_block: GetBlock,
    governance: Governance | None = None,
    *,
    only_final: bool = False,
) -> Audit:
    """Recompute every header that stands, or those that can no longer be challenged; `governance`
    where the network has one.

    Raises AuditFailed, and what `get_block` raises.
    """
    audit = Audit(History(chain.network))
    decisions = Decisions(chain, governance)
    for posted in chain.settlement.headers():
        if only_final and not chain.settlement.is_final(posted):
            break
        audit.append(posted, get_block, decisions)
    audit.versions = decisions.versions()
    return audit


@dataclass(frozen=True)
class Step:
    """One step from an answer to money: what was looked at, and what came of it."""

    name: str
    outcome: Outcome
    detail: str


def explain(audit: Audit, chain: ChainClient, signed: bytes) -> list[Step]:
    """Follow one signed receipt step by step, from its signatures to the payout of its shares."""
    network = chain.network
    steps: list[Step] = []
    try:
        verified = verify_receipt(decode_receipt(signed), network)
    except ProofError as error:
        return [Step("signatures", "broken", str(error))]
    steps.append(_explain_signatures(verified))
    epoch = audit.epochs.get(verified.digest)
    if epoch is None:
        steps.append(Step("included", "waits", "no header that stands has this receipt yet"))
        return steps
    steps.append(_explain_shares(audit, verified.receipt))
    steps.append(_explain_inclusion(audit, verified, epoch))
    steps.append(_explain_funds(chain, verified.receipt))
    steps += _explain_payouts(audit, chain, verified.receipt)
    return steps


def shares_of(audit: Audit, receipt: Receipt) -> tuple[Share, ...]:
    """Return who shares a receipt's fee, as its adapter's manifest says."""
    policy = audit.policies.of(receipt.parameters)
    return derive_shares(receipt, _terms_of(audit, receipt), policy)


def _terms_of(audit: Audit, receipt: Receipt) -> AdapterTerms | None:
    is_bare = receipt.adapter == BARE_BASE
    return None if is_bare else audit.history.state.adapters[receipt.adapter]


def _explain_signatures(verified: VerifiedReceipt) -> Step:
    receipt = verified.receipt
    who = f"node {to_hex(receipt.operator)}"
    client = f"client {to_hex(receipt.client)}"
    if verified.is_cosigned:
        return Step("signatures", "holds", f"{who} and {client} signed")
    return Step("signatures", "holds", f"{who} signed; {client} vouched and did not co-sign")


def _explain_shares(audit: Audit, receipt: Receipt) -> Step:
    try:
        shares = shares_of(audit, receipt)
        check_fee(receipt, _terms_of(audit, receipt), audit.policies.of(receipt.parameters))
    except ProofError as error:
        return Step("shares", "broken", str(error))
    parts = ", ".join(
        f"{to_hex(account)} {amount}" for account, amount in award(receipt.amount, shares)
    )
    return Step(
        "shares", "holds", f"{receipt.amount} by {_source(audit, receipt.adapter)}: {parts}"
    )


def _source(audit: Audit, adapter: bytes) -> str:
    """Say what the shares follow from."""
    if adapter == BARE_BASE:
        return "the manifest of the bare base"
    cocktail = audit.cocktails.get(adapter)
    if cocktail is None:
        return f"the manifest of {adapter.hex()}"
    mixed = ", ".join(
        f"{one.weight / WEIGHT_UNIT:g} of {one.parsed.name} ({one.digest.hex()})"
        for one in cocktail.parents
    )
    return f"the manifests of {mixed}, which make {adapter.hex()}"


def _explain_inclusion(audit: Audit, verified: VerifiedReceipt, epoch: int) -> Step:
    receipt = verified.receipt
    state = audit.history.state
    proof = state.prove_receipt(receipt.channel_id, receipt.sequence)
    assert state.header is not None
    if not proof.verify(verified.signed.body, state.header.receipts_root):
        return Step("included", "broken", "the log has another receipt in its place")
    return Step("included", "holds", f"in epoch {epoch}, leaf {proof.index} of {proof.size}")


def _explain_funds(chain: ChainClient, receipt: Receipt) -> Step:
    claimed = chain.channels.read(receipt.channel_id).total_claimed
    if claimed < receipt.cumulative:
        detail = f"{claimed} of {receipt.cumulative} is claimed of its channel: prove it unfunded"
        return Step("funded", "broken", detail)
    return Step("funded", "holds", f"{claimed} is claimed of its channel, {receipt.cumulative} due")


def _explain_payouts(audit: Audit, chain: ChainClient, receipt: Receipt) -> list[Step]:
    steps = []
    is_final = chain.settlement.is_final(audit.posted[-1])
    for account, amount in award(receipt.amount, shares_of(audit, receipt)):
        awarded = audit.history.state.amount(account)
        paid = chain.settlement.paid_to(account)
        detail = f"{to_hex(account)}: {amount} of this answer; awarded {awarded}, paid {paid}"
        if paid < awarded:
            why = "claim it" if is_final else "its header can still be challenged"
            steps.append(Step("paid", "waits", f"{detail} ({why})"))
        else:
            steps.append(Step("paid", "holds", detail))
    return steps


def _get(get_block: GetBlock, digest: bytes) -> bytes:
    block = get_block(digest)
    if hashlib.sha256(block).digest() != digest:
        raise AuditFailed(f"what was given as block {digest.hex()} is another one")
    return block

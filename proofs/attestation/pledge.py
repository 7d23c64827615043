"""Signs and checks a pledge: before an audit, its auditor commits to whom he will ask what and
when, so that afterwards he can choose nothing and everybody sees what he leaves out.

Normative text: docs/protocols/attestation.md. Knows no engine and no network.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

from ..codec import Address, Amount, Digest, NotCanonical, PublicKey, Record, Signature, encode
from ..codec import decode as decode_record
from ..digest import Network
from ..errors import AttestationError, BadSignature
from ..signed import sign_record, signer_of
from ..signing import Signer, address_of
from .record import MAX_ATTESTATION_BYTES, Attestation, parse_attestation

VERSION = 2
MAX_CANARIES = 64
MAX_PROMPT_CHARS = 8_192
MAX_PLEDGE_BYTES = 256
MAX_REPORT_BYTES = 48 << 20  # of 64 attestations with their answers
CLOCK_S = 120
"""By how much the clocks of node and auditor may differ."""

_PLAN = b"lorikeet audit plan 2\0"
_DOMAIN = b"lorikeet audit pledge 1\0"


class Canary(Record, frozen=True):
    """One question of an audit, asked `after_s` seconds after its pledge was made, or later, by
    `temperature` and `top_p` in thousandths; where it `follows`, in the conversation of the one
    before, whose question and answer stand before it.
    """

    after_s: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PROMPT_CHARS)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    temperature: Annotated[int, msgspec.Meta(ge=0, le=100_000)]
    top_p: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    follows: bool


class Plan(Record, frozen=True):
    """All of an audit: whom it asks, with which adapter (32 zero bytes: the bare base), what and
    when, each conversation after the `system` prompt, where it has one; `pool` is the sha-256 of
    the prompts that these were drawn from, `salt` keeps guesses out.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    operator: Address
    adapter: Digest
    pool: Digest
    system: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT_CHARS)]
    canaries: Annotated[tuple[Canary, ...], msgspec.Meta(min_length=1, max_length=MAX_CANARIES)]
    salt: Digest


class Pledge(Record, frozen=True):
    """What an auditor tells before: the commitment to a plan. `made_at` in Unix seconds."""

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    commitment: Digest
    made_at: Amount
    auditor: PublicKey
    signature: Signature


def commitment_of(plan: Plan) -> bytes:
    """Return what a pledge says of a plan."""
    return hashlib.sha256(_PLAN + encode(plan)).digest()


def make_pledge(signer: Signer, plan: Plan, made_at: int) -> bytes:
    """Sign the commitment to a plan."""
    draft = Pledge(VERSION, commitment_of(plan), made_at, signer.public_key, bytes(65))
    return sign_record(signer, draft, _DOMAIN)


def parse_pledge(data: bytes) -> Pledge:
    """Read a pledge from bytes nobody vouched for. Raises AttestationError."""
    try:
        found = decode_record(data, _PLEDGE, MAX_PLEDGE_BYTES)
    except NotCanonical as error:
        raise AttestationError(error.rule, str(error)) from error
    if found.version != VERSION:
        raise AttestationError("version", f"{found.version}; this node reads {VERSION}")
    try:
        is_his = signer_of(found, _DOMAIN) == address_of(found.auditor)
    except BadSignature as error:
        raise AttestationError("signature", str(error)) from error
    if not is_his:
        raise AttestationError("signature", "not made by the auditor that it names")
    return found


class Report(Record, frozen=True):
    """An audit, opened: its plan, its pledge, and an attestation that shows its answer for each
    canary, None where none came.
    """

    plan: Plan
    pledge: Annotated[bytes, msgspec.Meta(max_length=MAX_PLEDGE_BYTES)]
    attestations: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MAX_ATTESTATION_BYTES)] | None, ...],
        msgspec.Meta(max_length=MAX_CANARIES),
    ]


def parse_report(data: bytes, network: Network) -> tuple[Report, Pledge, list[Attestation | None]]:
    """Read a report from bytes nobody vouched for: its pledge is to its plan, and each attestation
    shows the answer to its canary, as far as numbers say. That its prompt is the planned one,
    whoever has the tokenizer sees in the opening. Raises AttestationError.
    """
    try:
        report = decode_record(data, _REPORT, MAX_REPORT_BYTES)
    except NotCanonical as error:
        raise AttestationError(error.rule, str(error)) from error
    pledge = parse_pledge(report.pledge)
    plan = report.plan
    if pledge.commitment != commitment_of(plan):
        raise AttestationError("commitment", "the pledge is to another plan")
    if len(report.attestations) != len(plan.canaries):
        raise AttestationError("canaries", "there is not one attestation for each")
    shown = [
        None if one is None else parse_attestation(one, network) for one in report.attestations
    ]
    for number, attested in enumerate(shown):
        if attested is not None:
            _check_canary(plan, number, pledge, attested)
    digests = [one.digest for one in shown if one is not None]
    if len(set(digests)) < len(digests):
        raise AttestationError("canaries", "one answer stands for two")
    return report, pledge, shown


def _check_canary(plan: Plan, number: int, pledge: Pledge, shown: Attestation) -> None:
    canary = plan.canaries[number]
    receipt = shown.receipt
    if shown.opening is None or shown.auditor != pledge.auditor:
        raise AttestationError("opening", f"canary {number + 1} is not shown by its auditor")
    if receipt.operator != plan.operator or receipt.adapter != plan.adapter:
        raise AttestationError("receipt", f"canary {number + 1} is of another node or adapter")
    if receipt.started_at + CLOCK_S < pledge.made_at + canary.after_s:
        raise AttestationError("time", f"canary {number + 1} was asked before its time")
    if receipt.completion_tokens > canary.max_tokens:
        raise AttestationError("tokens", f"canary {number + 1} has more tokens than were planned")


_PLEDGE = msgspec.msgpack.Decoder(Pledge)
_REPORT = msgspec.msgpack.Decoder(Report)

"""What faces ask and are told of verified answers, audits and attestations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .datanets import PathOrNone

Weighs = Literal["own", "named", "stranger"]
Verdict = Literal["agrees", "differs", "unknown"]
"""Whether a receipt says what its answer drew on, as computed again here."""


@dataclass(frozen=True)
class VerifyInfo:
    """One bought answer, replayed here: did the adapter of its receipt make it?

    `node` is the address of whoever signed the receipt; `adapter` a CID, empty for the bare base.
    `missed` of `tokens` did not win; `score` is by how many logits a token missed on average, of
    which `limit` would be allowed (0 where nothing was compared). `formats`: the number format of
    the answer, and of the replay. `fits_base`: where the adapter did not make it, whether the bare
    base did. `attestation`: this, signed, in hex (docs/protocols/attestation.md). Of an answer
    that somebody showed, `auditor` is his public key in hex and `attested` what he said of it.
    """

    receipt: str
    verdict: Verdict
    reason: str
    node: str
    adapter: str
    tokens: int
    missed: int = 0
    score: float = 0.0
    limit: float = 0.0
    is_calibrated: bool = False
    formats: tuple[str, ...] = ()
    fits_base: bool | None = None
    attestation: str = ""
    auditor: str = ""
    attested: str = ""


@dataclass(frozen=True)
class AuditSaid:
    """An audit that is wanted: of which node (a peer id), with which model, so many questions
    (null: as many as a client asks) within so many seconds, drawn from the prompts in a file (one a
    line, absolute path; empty: HOME/prompts).
    """

    node: str
    model: str = "base"
    canaries: int | None = 8
    within_s: float = 60.0
    prompts: PathOrNone = ""


@dataclass(frozen=True)
class AuditInfo:
    """What an audit found: each canary's answer, replayed. `verdict` is "differs" where one of them
    differs, "agrees" where at least one could be judged, else "unknown"; `failures` says why
    canaries got no answer. `commitment` was told before; `report` is the file that opens it;
    `spent` in the fee token's smallest unit; `weight` what the node counts now, and `against` what
    speaks against it.
    """

    node: str
    adapter: str
    verdict: Verdict
    answers: tuple[VerifyInfo, ...]
    failures: tuple[str, ...]
    commitment: str
    report: str
    spent: int
    weight: float
    against: str = ""


@dataclass(frozen=True)
class RecheckInfo:
    """Somebody's audit, recomputed here: of so many canaries so many were answered, and those
    answers, replayed. `pledged_at` is when its pledge was heard here, in Unix seconds; None where
    it was not, or after the first answer.
    """

    auditor: str
    node: str
    adapter: str
    commitment: str
    pledged_at: float | None
    canaries: int
    verdict: Verdict
    answers: tuple[VerifyInfo, ...]


@dataclass(frozen=True)
class AttestationInfo:
    """One verifier's signed verdict on one answer, made or heard here.

    `auditor` is a public key in hex; `weighs` what its word is worth here: "own", "named" (as a
    replay of one's own) or "stranger" (it has the node's next answers replayed). `judged_at` in
    Unix seconds; all else as VerifyInfo has it.
    """

    receipt: str
    outcome: str
    node: str
    adapter: str
    tokens: int
    missed: int
    score: float
    limit: float
    judged_at: int
    auditor: str
    weighs: Weighs

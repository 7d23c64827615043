"""Declares what nodes tell one another about answers that they replayed, and reads it.

Normative text: docs/protocols/attestation.md. Sends nothing.
"""

from __future__ import annotations

from proofs.attestation.record import Attestation, parse_attestation
from proofs.digest import Network
from proofs.errors import AttestationError

TOPIC = "attestations"
PLEDGES_TOPIC = "pledges"
MAX_TOLD_BYTES = 1024  # one whose question and answer are kept back is shorter
MAX_SKEW_S = 600
MAX_AGE_S = 7 * 86_400


def read_told(data: bytes, network: Network) -> Attestation:
    """Check a message of the topic from bytes nobody vouched for. Raises AttestationError."""
    if len(data) > MAX_TOLD_BYTES:
        raise AttestationError("size", f"{len(data)} bytes; at most {MAX_TOLD_BYTES}")
    found = parse_attestation(data, network)
    if found.opening is not None:
        raise AttestationError("opening", "question and answer do not belong on the topic")
    return found


def is_timely(found: Attestation, now: float) -> bool:
    """Return whether it is neither old nor of a time to come, by our clock in Unix seconds."""
    return now - MAX_AGE_S <= found.judged_at <= now + MAX_SKEW_S

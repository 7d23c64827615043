"""Signs and checks an attestation: one verifier's verdict on one answer, and what it rests on.

Normative text: docs/protocols/attestation.md.

Decides whether a record is well formed and belongs to the receipt in it. Whether its verdict is
true, whoever has base and adapter finds by replaying what the opening shows; it knows no engine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import msgspec

from ..codec import Amount, Count, Digest, NotCanonical, PublicKey, Record, Signature, decode
from ..digest import Network
from ..errors import AttestationError, BadSignature, ReceiptError
from ..receipt import (
    MAX_BODY_BYTES,
    NO_SIGNATURE,
    Receipt,
    SignedReceipt,
    commit,
    decode_body,
    digest_of,
    verify_receipt,
)
from ..signed import sign_record, signer_of
from ..signing import Signer, address_of

VERSION = 1
MAX_ASK_BYTES = 512 << 10
MAX_ANSWER_TOKENS = 8_192  # as the infer protocol carries
MAX_ATTESTATION_BYTES = 640 << 10
MILLION = 1_000_000

_DOMAIN = b"lorikeet attestation 1\0"
_SEED = b"lorikeet seed"

Outcome = Literal["agrees", "differs"]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 24)]
Millionths = Annotated[int, msgspec.Meta(ge=0, le=10_000 * MILLION)]


class Measured(Record, frozen=True):
    """What a replay found, and the limits of honest answers that it was held to.

    `missed`: so many of `tokens` did not win. All else but `one_in` in millionths of a logit (the
    variance: of its square), `score` and `limit` as docs/protocols/sampling.md defines them.
    """

    tokens: Count
    missed: Count
    score: Millionths
    limit: Millionths
    cap: Millionths
    mean: Millionths
    variance: Millionths
    one_in: Annotated[int, msgspec.Meta(ge=2, le=10**12)]


class Opening(Record, frozen=True):
    """All that it takes to replay an answer: what was asked (`ask`, the frame of the infer protocol
    that the seed is bound to), both halves of the seed, the answer, and the salt of the receipt's
    commitments.
    """

    ask: Annotated[bytes, msgspec.Meta(max_length=MAX_ASK_BYTES)]
    client_seed: Digest
    node_seed: Digest
    salt: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    answer_ids: Annotated[tuple[TokenId, ...], msgspec.Meta(max_length=MAX_ANSWER_TOKENS)]


class Attestation(Record, frozen=True, dict=True):
    """A verdict on the answer of a receipt (`body`, with its node's signature).

    `opening` None keeps question and answer to the verifier. `judged_at` in Unix seconds;
    `auditor` is a compressed public key.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY_BYTES)]
    node_signature: Signature
    outcome: Outcome
    measured: Measured
    opening: Opening | None
    judged_at: Amount
    auditor: PublicKey
    signature: Signature

    @cached_property
    def receipt(self) -> Receipt:
        """Return the receipt that is judged."""
        return decode_body(self.body)

    @cached_property
    def digest(self) -> bytes:
        """Return the receipt's digest."""
        return digest_of(self.body)


@dataclass(frozen=True)
class Judged:
    """What a verifier found, before it is signed."""

    body: bytes
    node_signature: bytes
    outcome: Outcome
    measured: Measured
    opening: Opening | None


def build_attestation(signer: Signer, judged: Judged, judged_at: int, network: Network) -> bytes:
    """Write and sign an attestation. Raises AttestationError when nobody would accept it."""
    draft = Attestation(
        VERSION,
        judged.body,
        judged.node_signature,
        judged.outcome,
        judged.measured,
        opening=judged.opening,
        judged_at=judged_at,
        auditor=signer.public_key,
        signature=bytes(65),
    )
    try:
        data = sign_record(signer, draft, _DOMAIN)
    except (TypeError, OverflowError, UnicodeError) as error:
        raise AttestationError("schema", str(error)) from error
    parse_attestation(data, network)
    return data


def parse_attestation(data: bytes, network: Network) -> Attestation:
    """Read an attestation from bytes nobody vouched for: bounded, canonical, about a receipt that
    its node signed, consistent, signed by whom it names.

    Raises AttestationError.
    """
    try:
        found = decode(data, _DECODER, MAX_ATTESTATION_BYTES)
    except NotCanonical as error:
        raise AttestationError(error.rule, str(error)) from error
    if found.version != VERSION:
        raise AttestationError("version", f"{found.version}; this node reads {VERSION}")
    try:
        verify_receipt(SignedReceipt(found.body, found.node_signature, NO_SIGNATURE), network)
    except ReceiptError as error:
        raise AttestationError("receipt", str(error)) from error
    _check_measured(found)
    if found.opening is not None:
        check_opening(found.opening, found.receipt)
    _check_signer(found)
    return found


def check_opening(opening: Opening, receipt: Receipt) -> None:
    """Raise AttestationError unless this is what the receipt's node was asked and what it
    answered.

    The receipt's seed is bound to the question, so nobody can add terms that were not agreed on. An
    answer that another node began has its seed from there, and is never opened.
    """
    asked = hashlib.sha256(opening.ask).digest()
    seed = hashlib.sha256(_SEED + opening.client_seed + opening.node_seed + asked).digest()
    if seed != receipt.seed:
        raise AttestationError("seed", "the receipt's seed does not come of this question")
    if commit(opening.salt, opening.answer_ids) != receipt.answer_commitment:
        raise AttestationError("answer", "the receipt commits to another answer")
    if commit(opening.salt, prompt_in(opening)) != receipt.prompt_commitment:
        raise AttestationError("prompt", "the receipt commits to another prompt")


def is_consistent(found: Attestation) -> bool:
    """Return whether an attestation's outcome is what its own score and limit say."""
    return (found.measured.score > found.measured.limit) == (found.outcome == "differs")


def attester(found: Attestation) -> bytes:
    """Return the address of whoever signed an attestation, whomever it names. Raises
    BadSignature.
    """
    return signer_of(found, _DOMAIN)


def prompt_in(opening: Opening) -> list[int]:
    """Return the prompt of the question that is shown. Raises AttestationError."""
    try:
        return msgspec.msgpack.decode(opening.ask, type=_Asked).prompt_ids
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise AttestationError(
            "ask", f"this is no question of the infer protocol: {error}"
        ) from error


class _Asked(msgspec.Struct, frozen=True, array_like=True, tag="Ask"):
    """The beginning of the infer protocol's question; what follows is bound by the seed alone."""

    version: int
    base: bytes
    adapter: bytes
    cocktail: bytes
    prompt_ids: Annotated[list[TokenId], msgspec.Meta(max_length=1 << 16)]


def _check_measured(found: Attestation) -> None:
    measured = found.measured
    if measured.tokens != found.receipt.completion_tokens:
        raise AttestationError(
            "tokens", f"{measured.tokens} judged; the receipt has {found.receipt.completion_tokens}"
        )
    if measured.missed > measured.tokens or measured.score > measured.cap:
        raise AttestationError("measured", "more was missed than there is")
    if measured.limit >= measured.cap:
        raise AttestationError("limit", "an answer so short has no verdict")
    if not is_consistent(found):
        raise AttestationError("outcome", f"{found.outcome!r} is not what score and limit say")


def _check_signer(found: Attestation) -> None:
    try:
        is_his = attester(found) == address_of(found.auditor)
    except BadSignature as error:
        raise AttestationError("signature", str(error)) from error
    if not is_his:
        raise AttestationError("signature", "not made by the auditor that it names")


_DECODER = msgspec.msgpack.Decoder(Attestation)

"""Signs and reads the records of a datanet: charter, joining, member, claim, contribution, verdict,
withdrawal, version; and the registration that gives each its place in the log.

Normative text: docs/protocols/datanet.md. Decides what one record by itself may say. Whether it may
stand in a log is for log.py; what is in a text it does not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal, TypeVar

import msgspec

from ..codec import (
    Address,
    Amount,
    Count,
    Digest,
    NotCanonical,
    PublicKey,
    Record,
    Signature,
    encode,
)
from ..codec import decode as decode_record
from ..errors import BadSignature, DatanetError
from ..signed import sign_record, signer_of
from ..signing import Signer, address_of
from .texts import check_lines, check_texts

MAX_ENTRY_BYTES = 64 << 10
MAX_VERSION_BYTES = 256 << 10
MAX_REGISTRATION_BYTES = 256
MAX_DOCUMENTS = 1_024  # of one contribution
MAX_BLOCK_BYTES = 256 << 10
MAX_TEXT_BLOCKS = 64  # so a contribution has at most 16 MiB of text
MAX_REPORT_BYTES = 1 << 20
MAX_REASONS = 64
MAX_LIVE = 4_096  # contributions of one version
MAX_PEOPLE = 1_024  # of one version
SALT_BYTES = 16
NOTHING = bytes(32)

TRAIN = 1  # bits of a consent's scope
PUBLISH = 2
NAME_ME = 4

Form = Literal[1]
FORM: Form = 1  # the number of the form of every record
Line = Annotated[str, msgspec.Meta(max_length=128)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Bps = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
Salt = Annotated[bytes, msgspec.Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
Pass = Annotated[bytes, msgspec.Meta(max_length=65)]
Block = tuple[Digest, Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_BYTES)]]
Attached = tuple[Digest, Annotated[int, msgspec.Meta(ge=1, le=MAX_REPORT_BYTES)]]
Role = Literal["member", "curator", "barred"]
Decision = Literal["accept", "refuse", "hold"]


class Limits(Record, frozen=True):
    """What a contribution may have, in bytes and words."""

    max_document_bytes: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    max_contribution_bytes: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    max_person_bytes: Annotated[int, msgspec.Meta(ge=1, lt=1 << 40)]
    min_words: Count


class Invitation(Record, frozen=True):
    """An owner's or curator's word that whoever holds the secret of `key` may join.

    `uses` people at most, until `until` (Unix seconds).
    """

    form: Form
    datanet: Digest
    key: PublicKey
    uses: Annotated[int, msgspec.Meta(ge=1, le=4_096)]
    until: Amount
    by: PublicKey
    signature: Signature


class Charter(Record, frozen=True, tag="charter"):
    """What a datanet is for, by which rules. The digest of the first one names the datanet.

    `previous` is the charter that this one replaces, zeros in the first. `base` is zeros where the
    texts are for any base.
    """

    form: Form
    name: Word
    owner: PublicKey
    sequencer: PublicKey
    created_at: Amount
    purpose: Annotated[str, msgspec.Meta(max_length=2_048)]
    consent: Annotated[str, msgspec.Meta(min_length=1, max_length=4_096)]
    languages: Annotated[list[Word], msgspec.Meta(max_length=16)]
    licences: Annotated[list[Word], msgspec.Meta(min_length=1, max_length=16)]
    limits: Limits
    novelty_floor_bps: Bps
    quorum: Annotated[int, msgspec.Meta(ge=1, le=16)]
    is_open: bool
    base: Digest
    previous: Digest
    signature: Signature


class Joining(Record, frozen=True, tag="joining"):
    """Somebody wants to take part. `admission` is signed by the invitation's key over the person;
    both are left out where the charter is open.
    """

    form: Form
    datanet: Digest
    person: PublicKey
    name: Word
    invitation: Invitation | None
    admission: Pass
    signature: Signature


class Member(Record, frozen=True, tag="member"):
    """The owner's word, or one curator's voice, on what somebody's role is from now on.

    `at` is later than in the same voice's last word on that subject, so that no old one is said
    again by somebody else.
    """

    form: Form
    datanet: Digest
    subject: PublicKey
    role: Role
    at: Amount
    by: PublicKey
    signature: Signature


class Claim(Record, frozen=True, tag="claim"):
    """Somebody has a text that the commitment fixes and does not show."""

    form: Form
    datanet: Digest
    contributor: PublicKey
    commitment: Digest
    signature: Signature


class Document(Record, frozen=True):
    """One document: where it ends in the contribution's text follows from the sizes before it."""

    size: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    words: Count
    digest: Digest
    title: Line


class Consent(Record, frozen=True):
    """What its contributor lets be done: with which words, which uses (bits), until when (0: for
    good).
    """

    text: Digest
    scope: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    until: Amount


class Contribution(Record, frozen=True, tag="contribution"):
    """A text that was claimed, and its rights. Its documents, one after the other, are the text."""

    form: Form
    datanet: Digest
    contributor: PublicKey
    claim: Digest
    salt: Salt
    pay_to: Address
    title: Line
    source: Line
    licence: Word
    language: Word
    format: Word
    original: Digest
    consent: Consent
    documents: Annotated[list[Document], msgspec.Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    blocks: Annotated[list[Block], msgspec.Meta(min_length=1, max_length=MAX_TEXT_BLOCKS)]
    cleaner: Word
    report: Attached
    sketch: Attached | None
    signature: Signature


class Reason(Record, frozen=True):
    """Why a text was not taken. `document` counts from 1; 0 is the whole."""

    code: Word
    document: Annotated[int, msgspec.Meta(ge=0, le=MAX_DOCUMENTS)]
    detail: Annotated[str, msgspec.Meta(max_length=512)]
    mend: Annotated[str, msgspec.Meta(max_length=512)]


class Verdict(Record, frozen=True, tag="verdict"):
    """What one of the council says of a contribution, or of a version that another one proposed.
    `at` as in Member.
    """

    form: Form
    datanet: Digest
    subject: Digest
    decision: Decision
    reasons: Annotated[list[Reason], msgspec.Meta(max_length=MAX_REASONS)]
    report: Digest
    at: Amount
    by: PublicKey
    signature: Signature


class Withdrawal(Record, frozen=True, tag="withdrawal"):
    """A contributor takes a contribution back."""

    form: Form
    datanet: Digest
    contribution: Digest
    by: PublicKey
    at: Amount
    signature: Signature


class Total(Record, frozen=True):
    """What one person has in a version. `held_out` are documents that nothing is trained on."""

    person: PublicKey
    pay_to: Address
    contributions: Count
    documents: Count
    words: Amount
    size: Amount
    held_out: Count


class Version(Record, frozen=True, tag="version"):
    """What the datanet holds at one place of its log. All of it follows from the log up to `head`,
    the registration before its own, and `created_at`.
    """

    form: Form
    datanet: Digest
    number: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    previous: Digest
    head: Digest
    created_at: Amount
    contributions: Annotated[list[Digest], msgspec.Meta(min_length=1, max_length=MAX_LIVE)]
    totals: Annotated[list[Total], msgspec.Meta(min_length=1, max_length=MAX_PEOPLE)]
    held_out: Digest
    by: PublicKey
    signature: Signature


Entry = Charter | Joining | Member | Claim | Contribution | Verdict | Withdrawal | Version


class Registration(Record, frozen=True):
    """One entry's place in the log: `seq` has no gaps, `previous` is the digest of the one before,
    `at` the sequencer's clock in Unix seconds.
    """

    form: Form
    datanet: Digest
    seq: Count
    previous: Digest
    entry: Digest
    at: Amount
    signature: Signature


def digest_of(data: bytes) -> bytes:
    """Return what a record is called by."""
    return hashlib.sha256(data).digest()


def kind_of(entry: Entry) -> str:
    """Return the word with which an entry's array begins."""
    return str(type(entry).__struct_config__.tag)


def sign_entry(signer: Signer, draft: Entry) -> bytes:
    """Return an entry's bytes under our signature. Raises DatanetError where nobody would read
    it.
    """
    data = _sign(signer, draft, _domain(draft))
    parse_entry(data)
    return data


def sign_registration(signer: Signer, draft: Registration) -> bytes:
    """Return a registration's bytes under the sequencer's signature."""
    return _sign(signer, draft, _REGISTRATION)


def sign_invitation(signer: Signer, draft: Invitation) -> Invitation:
    """Return an invitation under its inviter's signature."""
    return msgspec.msgpack.decode(_sign(signer, draft, _INVITATION), type=Invitation)


def parse_entry(data: bytes) -> Entry:
    """Read an entry from bytes nobody vouched for: bounded, canonical, consistent, and signed by
    whom it names.

    Raises DatanetError.
    """
    entry = _decode(data, _ENTRY, MAX_VERSION_BYTES)
    if len(data) > MAX_ENTRY_BYTES and not isinstance(entry, Version):
        raise DatanetError(
            "size",
            f"a {kind_of(entry)} of {len(data)} bytes; the limit is {MAX_ENTRY_BYTES}",
            "divide it",
        )
    _check_form(entry)
    _check_signature(entry, _domain(entry), author_of(entry))
    return entry


def parse_registration(data: bytes) -> Registration:
    """Read a registration; `registrar_of` says who signed it. Raises DatanetError."""
    return _decode(data, _REGISTRATION_DECODER, MAX_REGISTRATION_BYTES)


def registrar_of(registration: Registration) -> bytes:
    """Return the address whose key signed a registration. Raises DatanetError."""
    try:
        return signer_of(registration, _REGISTRATION)
    except BadSignature as error:
        raise DatanetError("signature", str(error), "ask another member") from error


def check_invitation(invitation: Invitation) -> None:
    """Raise DatanetError unless whom it names signed it."""
    _check_signature(invitation, _INVITATION, invitation.by)


def author_of(entry: Entry) -> bytes:
    """Return the public key that has to have signed an entry."""
    match entry:
        case Charter():
            return entry.owner
        case Joining():
            return entry.person
        case Claim() | Contribution():
            return entry.contributor
        case Member() | Verdict() | Withdrawal() | Version():
            return entry.by


def commitment_of(salt: bytes, contributor: bytes, documents: Iterable[Document]) -> bytes:
    """Return what a claim shows of a text: nothing, without the salt, and nobody else's name."""
    return digest_of(_COMMITMENT + salt + encode([contributor, list(documents)]))


def size_of(entry: Contribution) -> int:
    """Return the bytes of a contribution's text."""
    return sum(document.size for document in entry.documents)


def _check_form(entry: Entry) -> None:
    match entry:
        case Charter():
            check_lines(name=entry.name, languages=_joined(entry.languages))
            check_lines(licences=_joined(entry.licences))
            check_texts(purpose=entry.purpose, consent=entry.consent)
            address_or_error(entry.sequencer)
        case Joining():
            check_lines(name=entry.name)
        case Contribution():
            _check_contribution(entry)
        case Verdict():
            for reason in entry.reasons:
                check_lines(code=reason.code, detail=reason.detail, mend=reason.mend)
        case Member():
            address_or_error(entry.subject)
        case _:
            pass


def _check_contribution(entry: Contribution) -> None:
    check_lines(title=entry.title, source=entry.source, licence=entry.licence)
    check_lines(language=entry.language, format=entry.format, cleaner=entry.cleaner)
    check_lines(documents=_joined(document.title for document in entry.documents))
    if entry.pay_to == bytes(20):
        raise DatanetError("pay_to", "nobody can be paid at the zero address", "name another")
    size = size_of(entry)
    listed = sum(length for _, length in entry.blocks)
    if listed != size:
        raise DatanetError(
            "blocks", f"the blocks have {listed} bytes, the documents {size}", "list all of them"
        )
    if any(length != MAX_BLOCK_BYTES for _, length in entry.blocks[:-1]):
        raise DatanetError(
            "blocks", f"a block before the last has not {MAX_BLOCK_BYTES} bytes", "cut it anew"
        )
    if len({document.digest for document in entry.documents}) != len(entry.documents):
        raise DatanetError("documents", "two documents are the same", "give each once")


def _joined(texts: Iterable[str]) -> str:
    return "".join(texts)


def address_or_error(key: bytes) -> bytes:
    """Return a public key's address. Raises DatanetError for what is no key."""
    try:
        return address_of(key)
    except BadSignature as error:
        raise DatanetError("key", str(error), "name a public key of 33 bytes") from error


def _check_signature(record: Record, domain: bytes, author: bytes) -> None:
    try:
        is_his = signer_of(record, domain) == address_of(author)
    except BadSignature as error:
        raise DatanetError("signature", str(error), "sign it again") from error
    if not is_his:
        raise DatanetError(
            "signature", f"not made by {author.hex()}, whom it names", "sign it with that key"
        )


def _sign(signer: Signer, draft: Record, domain: bytes) -> bytes:
    try:
        return sign_record(signer, draft, domain)
    except (TypeError, OverflowError, UnicodeError) as error:
        raise DatanetError("schema", str(error), "say it within the limits") from error


AnyRecord = TypeVar("AnyRecord")


def _decode(data: bytes, decoder: msgspec.msgpack.Decoder[AnyRecord], max_bytes: int) -> AnyRecord:
    try:
        return decode_record(data, decoder, max_bytes)
    except NotCanonical as error:
        raise DatanetError(
            error.rule, str(error), "write it as docs/protocols/datanet.md says"
        ) from error


def _domain(entry: Entry) -> bytes:
    return f"lorikeet {kind_of(entry)} {FORM}\0".encode()


_REGISTRATION = b"lorikeet registration 1\0"
_INVITATION = b"lorikeet invitation 1\0"
_COMMITMENT = b"lorikeet commitment 1\0"
_ENTRY: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
_REGISTRATION_DECODER = msgspec.msgpack.Decoder(Registration)

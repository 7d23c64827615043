"""A whole datanet, row by row: each entry and its registration, by field and by bytes, with what
follows from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from proofs.datanet.entries import (
    FORM,
    NOTHING,
    Charter,
    Claim,
    Consent,
    Contribution,
    Document,
    Entry,
    Joining,
    Limits,
    Member,
    Reason,
    Verdict,
    Version,
    Withdrawal,
    commitment_of,
    digest_of,
    kind_of,
    parse_entry,
    parse_registration,
    sign_entry,
)
from proofs.datanet.invite import Token, admit, invite, write_token
from proofs.datanet.log import apply, begin, register
from proofs.datanet.state import State
from proofs.datanet.version import contents, parts_of, standing_weights
from proofs.signing import Signer

from .world import secret

OWNER, CURATOR, ANN, BEN = (
    Signer(secret(name)) for name in ("datanet owner", "curator", "Ann", "Ben")
)
BEGAN = 1_795_000_000
CONSENT = "You may train on it and publish it."
NO_SIGNATURE = bytes(65)
TEXTS = {
    "Ann": [f"Ann wrote letter number {number}.".encode() for number in range(23)],
    "Ben": [b"Ben wrote one letter.", b"Ann wrote letter number 3."],
}
"""Ben's second text is Ann's: she claimed it first."""


class _Log:
    """The sequencer, which is the owner."""

    def __init__(self, charter: Charter) -> None:
        data = sign_entry(OWNER, charter)
        row = register(None, OWNER, data, BEGAN)
        self.rows = [(row, data)]
        self.state: State = begin(row, data)

    def put(self, signer: Signer, draft: Entry) -> bytes:
        data = sign_entry(signer, draft)
        row = register(self.state, OWNER, data, BEGAN + 60 * len(self.rows))
        apply(self.state, row, data)
        self.rows.append((row, data))
        return digest_of(data)


def datanet() -> dict[str, Any]:
    """A charter; three people, one invited; claims, texts, verdicts; a version, a withdrawal, a
    second version.
    """
    log = _Log(_charter())
    name = log.state.datanet
    invitation = invite(OWNER, name, secret("invitation"), uses=3, until=BEGAN + 86_400)
    for signer, called in ((CURATOR, "Cora"), (ANN, "Ann"), (BEN, "Böll")):
        admission = admit(secret("invitation"), name, signer.public_key)
        joining = Joining(
            FORM,
            name,
            signer.public_key,
            called,
            invitation=invitation,
            admission=admission,
            signature=NO_SIGNATURE,
        )
        log.put(signer, joining)
    member = Member(
        FORM,
        name,
        CURATOR.public_key,
        "curator",
        at=BEGAN + 1,
        by=OWNER.public_key,
        signature=NO_SIGNATURE,
    )
    log.put(OWNER, member)
    ann = _give(log, ANN, TEXTS["Ann"], bytes(range(16)))
    ben = _give(log, BEN, TEXTS["Ben"], bytes(range(16, 32)))
    log.put(CURATOR, _verdict(name, ann, "accept"))
    log.put(CURATOR, _verdict(name, ben, "refuse"))
    log.put(OWNER, _verdict(name, ben, "accept", at=BEGAN + 900))
    log.put(CURATOR, _verdict(name, ben, "accept", at=BEGAN + 960))
    log.put(CURATOR, _version(log.state, CURATOR))
    by = ANN.public_key
    log.put(ANN, Withdrawal(FORM, name, ann, by, at=BEGAN + 1_000, signature=NO_SIGNATURE))
    log.put(OWNER, _version(log.state, OWNER))
    token = Token(
        name,
        "dhaka-law",
        "16Uiu2HAkxQejjoQXVe1j66eTYBtUhuK3SddDqwYmKZu57mvJFeMZ",
        ["/ip4/192.0.2.1/tcp/4101"],
        invitation=invitation,
        secret=secret("invitation"),
    )
    return {
        "secrets": {
            "owner": secret("datanet owner").hex(),
            "curator": secret("curator").hex(),
            "Ann": secret("Ann").hex(),
            "Ben": secret("Ben").hex(),
            "invitation": secret("invitation").hex(),
        },
        "datanet": name.hex(),
        "texts": {who: [text.decode() for text in texts] for who, texts in TEXTS.items()},
        "rows": [_row(*row) for row in log.rows],
        "held_out": [
            _held_out(log.state, made.version.contributions) for made in log.state.versions
        ],
        "standing_weights": _weights(log.state),
        "token": write_token(token),
    }


def _charter() -> Charter:
    return Charter(
        FORM,
        "dhaka-law",
        owner=OWNER.public_key,
        sequencer=OWNER.public_key,
        created_at=BEGAN,
        purpose="Rulings, explained.\nIn plain words.",
        consent=CONSENT,
        languages=["bn", "en"],
        licences=["CC-BY-4.0", "CC0-1.0"],
        limits=Limits(1 << 16, 1 << 20, 1 << 24, 3),
        novelty_floor_bps=2_000,
        quorum=1,
        is_open=False,
        base=NOTHING,
        previous=NOTHING,
        signature=NO_SIGNATURE,
    )


def _give(log: _Log, who: Signer, texts: Sequence[bytes], salt: bytes) -> bytes:
    name = log.state.datanet
    documents = [
        Document(len(text), len(text.split()), digest_of(text), f"Letter {number}")
        for number, text in enumerate(texts)
    ]
    whole = b"".join(texts)
    commitment = commitment_of(salt, who.public_key, documents)
    claim = log.put(who, Claim(FORM, name, who.public_key, commitment, NO_SIGNATURE))
    draft = Contribution(
        FORM,
        name,
        who.public_key,
        claim,
        salt=salt,
        pay_to=who.address,
        title="Letters",
        source="my own",
        licence="CC0-1.0",
        language="en",
        format="txt",
        original=digest_of(whole),
        consent=Consent(digest_of(CONSENT.encode()), 7, 0),
        documents=documents,
        blocks=[(digest_of(whole), len(whole))],
        cleaner="golden 1",
        report=(digest_of(b"report"), 6),
        sketch=(digest_of(b"sketch"), 6),
        signature=NO_SIGNATURE,
    )
    return log.put(who, draft)


def _verdict(name: bytes, subject: bytes, decision: Any, at: int = BEGAN + 800) -> Verdict:
    by = OWNER if at == BEGAN + 900 else CURATOR
    reasons = [Reason("duplicate", 2, "Ann gave it first", "leave it out")]
    return Verdict(
        FORM,
        name,
        subject,
        decision,
        reasons=reasons if decision == "refuse" else [],
        report=digest_of(b"report"),
        at=at,
        by=by.public_key,
        signature=NO_SIGNATURE,
    )


def _version(state: State, by: Signer) -> Version:
    last = state.version()
    found = contents(state, state.at)
    return Version(
        FORM,
        state.datanet,
        last.version.number + 1 if last else 1,
        last.digest if last else NOTHING,
        head=state.head,
        created_at=state.at,
        contributions=found.contributions,
        totals=list(found.totals),
        held_out=found.held_out,
        by=by.public_key,
        signature=NO_SIGNATURE,
    )


def _row(registration: bytes, entry: bytes) -> dict[str, Any]:
    parsed = parse_entry(entry)
    return {
        "kind": kind_of(parsed),
        "entry": _plain(parsed),
        "hex": entry.hex(),
        "digest": hashlib.sha256(entry).hexdigest(),
        "registration": _plain(parse_registration(registration)),
        "registration_hex": registration.hex(),
    }


def _held_out(state: State, contributions: Sequence[bytes]) -> list[Any]:
    parts = parts_of(state, contributions)
    return [
        [part.given.digest.hex(), [number + 1 for number in sorted(part.held_out)]]
        for part in parts
        if part.held_out
    ]


def _weights(state: State) -> list[Any]:
    """By the first version, before and after the withdrawal."""
    parts = parts_of(state, state.versions[0].version.contributions)
    after = [[address.hex(), weight] for address, weight in standing_weights(parts)]
    withdrawn = {part.given.digest: part.given.withdrawn for part in parts}
    for part in parts:
        part.given.withdrawn = None
    before = [[address.hex(), weight] for address, weight in standing_weights(parts)]
    for part in parts:
        part.given.withdrawn = withdrawn[part.given.digest]
    return [before, after]


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value

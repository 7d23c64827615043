"""Datanets for tests: people with keys, and a log that its sequencer writes as fast as one can."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from proofs.datanet.entries import (
    FORM,
    NOTHING,
    PUBLISH,
    TRAIN,
    Charter,
    Claim,
    Consent,
    Contribution,
    Decision,
    Document,
    Entry,
    Invitation,
    Joining,
    Limits,
    Member,
    Reason,
    Role,
    Verdict,
    Version,
    Withdrawal,
    commitment_of,
    digest_of,
    sign_entry,
)
from proofs.datanet.invite import admit, invite
from proofs.datanet.log import apply, begin, register
from proofs.datanet.version import contents
from proofs.signing import Signer

from .scene import signer

BEGAN = 1_795_000_000
CHARTER = Charter(
    FORM,
    "dhaka-law",
    owner=signer("owner").public_key,
    sequencer=signer("owner").public_key,
    created_at=BEGAN,
    purpose="Rulings, explained.\nIn plain words.",
    consent="You may train on it and publish it.",
    languages=["en", "bn"],
    licences=["CC0-1.0", "CC-BY-4.0"],
    limits=Limits(65_536, 1 << 20, 1 << 24, 3),
    novelty_floor_bps=2_000,
    quorum=1,
    is_open=True,
    base=NOTHING,
    previous=NOTHING,
    signature=bytes(65),
)


def document(text: str, title: str = "") -> Document:
    data = text.encode()
    return Document(len(data), len(text.split()), hashlib.sha256(data).digest(), title)


def documents(name: str, count: int = 1) -> list[Document]:
    return [document(f"{name} wrote text number {number}") for number in range(count)]


def contribution(
    who: Signer, datanet: bytes, claim: bytes, salt: bytes, listed: Sequence[Document], **said: Any
) -> Contribution:
    """A contribution of these documents; one block, whose hash nobody looks at here."""
    size = sum(one.size for one in listed)
    values: dict[str, Any] = {
        "form": FORM,
        "datanet": datanet,
        "contributor": who.public_key,
        "claim": claim,
        "salt": salt,
        "pay_to": who.address,
        "title": "notes",
        "source": "my own",
        "licence": "CC0-1.0",
        "language": "en",
        "format": "txt",
        "original": NOTHING,
        "consent": Consent(digest_of(CHARTER.consent.encode()), TRAIN | PUBLISH, 0),
        "documents": list(listed),
        "blocks": [(digest_of(b"block"), size)],
        "cleaner": "clean 1",
        "report": (digest_of(b"report"), 6),
        "sketch": None,
        "signature": bytes(65),
    }
    return Contribution(**(values | said))


class World:
    """One datanet's log as its sequencer has it: every step signs an entry and gives it a place."""

    def __init__(self, name: str = "owner", **changes: Any) -> None:
        charter = msgspec.structs.replace(CHARTER, **({"owner": signer(name).public_key} | changes))
        self.sequencer = signer(name)
        self.now = BEGAN
        data = sign_entry(signer(name), charter)
        row = register(None, self.sequencer, data, self.now)
        self.rows = [(row, data)]
        self.state = begin(row, data)

    def put(self, data: bytes) -> bytes:
        """Give an entry its place. Returns its digest; DatanetError, and nothing has changed."""
        self.now += 1
        row = register(self.state, self.sequencer, data, self.now)
        apply(self.state, row, data)
        self.rows.append((row, data))
        return digest_of(data)

    def sign(self, name: str, entry: Entry) -> bytes:
        return sign_entry(signer(name), entry)

    # --- what people do ---

    def invite(self, by: str = "owner", uses: int = 1, days: int = 1) -> tuple[Invitation, bytes]:
        secret = hashlib.sha256(f"invitation by {by} {self.now}".encode()).digest()
        until = self.now + 86_400 * days
        invitation = invite(signer(by), self.state.datanet, secret, uses=uses, until=until)
        return invitation, secret

    def joining(self, name: str, invited: tuple[Invitation, bytes] | None = None) -> bytes:
        person = signer(name).public_key
        admission = admit(invited[1], self.state.datanet, person) if invited else b""
        draft = Joining(
            FORM,
            self.state.datanet,
            person,
            name,
            invitation=invited[0] if invited else None,
            admission=admission,
            signature=bytes(65),
        )
        return self.sign(name, draft)

    def join(self, *names: str) -> None:
        for name in names:
            self.put(self.joining(name))

    def appoint(self, by: str, name: str, role: Role) -> bytes:
        draft = Member(
            FORM,
            self.state.datanet,
            signer(name).public_key,
            role,
            at=self.now,
            by=signer(by).public_key,
            signature=bytes(65),
        )
        return self.put(self.sign(by, draft))

    def claiming(self, name: str, listed: Sequence[Document], salt: bytes = bytes(16)) -> bytes:
        key = signer(name).public_key
        commitment = commitment_of(salt, key, listed)
        return self.sign(name, Claim(FORM, self.state.datanet, key, commitment, bytes(65)))

    def giving(
        self,
        name: str,
        claim: bytes,
        listed: Sequence[Document],
        salt: bytes = bytes(16),
        **said: Any,
    ) -> bytes:
        draft = contribution(signer(name), self.state.datanet, claim, salt, listed, **said)
        return self.sign(name, draft)

    def give(self, name: str, listed: Sequence[Document] | None = None, **said: Any) -> bytes:
        """Claim, then give."""
        listed = documents(name) if listed is None else listed
        claim = self.put(self.claiming(name, listed))
        return self.put(self.giving(name, claim, listed, **said))

    def judging(self, by: str, subject: bytes, decision: Decision = "accept") -> bytes:
        reasons = [] if decision == "accept" else [Reason("style", 0, "it is a list", "write it")]
        draft = Verdict(
            FORM,
            self.state.datanet,
            subject,
            decision,
            reasons=reasons,
            report=NOTHING,
            at=self.now,
            by=signer(by).public_key,
            signature=bytes(65),
        )
        return self.sign(by, draft)

    def judge(self, by: str, subject: bytes, decision: Decision = "accept") -> str:
        """Returns the contribution's status, or whether the version counts."""
        self.put(self.judging(by, subject, decision))
        given = self.state.given.get(subject)
        if given is not None:
            return given.status
        return "counts" if any(one.digest == subject for one in self.state.versions) else "open"

    def withdraw(self, name: str, subject: bytes) -> None:
        draft = Withdrawal(
            FORM,
            self.state.datanet,
            subject,
            signer(name).public_key,
            at=self.now,
            signature=bytes(65),
        )
        self.put(self.sign(name, draft))

    def cut(self, by: str = "owner") -> Version:
        """What the log gives now, unsigned."""
        last = self.state.version()
        found = contents(self.state, self.now)
        return Version(
            FORM,
            self.state.datanet,
            last.version.number + 1 if last else 1,
            last.digest if last else NOTHING,
            head=self.state.head,
            created_at=self.now,
            contributions=found.contributions,
            totals=list(found.totals),
            held_out=found.held_out,
            by=signer(by).public_key,
            signature=bytes(65),
        )

    def make_version(self, by: str = "owner", **changes: Any) -> bytes:
        draft = msgspec.structs.replace(self.cut(by), **changes)
        return self.put(self.sign(by, draft))

"""Gives texts to a datanet: examined, divided into contributions, claimed, then shown.

    files → intake → what may be given → contributions → claim registered → text shown → its place

What is claimed here stands on the disk with its salt before the claim is sent: after a crash the
same files go on with it. Decides how documents are divided; speaks through `submit`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio

from factory.intake import Document as Found
from factory.intake import Examined
from proofs.codec import encode
from proofs.datanet.entries import (
    FORM,
    MAX_BLOCK_BYTES,
    MAX_DOCUMENTS,
    MAX_ENTRY_BYTES,
    MAX_TEXT_BLOCKS,
    NAME_ME,
    PUBLISH,
    SALT_BYTES,
    TRAIN,
    Claim,
    Consent,
    Contribution,
    Document,
    commitment_of,
    digest_of,
    sign_entry,
)
from proofs.datanet.texts import plain_line
from proofs.errors import DatanetError
from proofs.hextext import from_hex
from proofs.signing import Signer

from ..api.datanets import GiveSaid, Progress, Tell
from ..catalogue.book import write_whole
from ..errors import BadRequest, DatanetRefused
from .examining import report_on
from .ground import Held
from .store import GIVING, REPORT, SKETCH, TEXT

MAX_TRIES = 60
RETRY_S = 2.0
ROOM_BYTES = MAX_ENTRY_BYTES - 4_096  # for a contribution's documents in its record
AGAIN = ("text", "rate")

Submit = Callable[[bytes], Awaitable[bytes]]
"""Has an entry placed; returns its registration when this node's log has it too."""


class Pending(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is claimed and not shown yet."""

    salt: bytes
    claim: bytes


@dataclass(frozen=True)
class Part:
    """Documents that become one contribution."""

    texts: tuple[bytes, ...]
    documents: tuple[Document, ...]


class Giver:
    """Gives under one key."""

    def __init__(self, signer: Signer, pay_to: bytes) -> None:
        self._signer = signer
        self._pay_to = pay_to

    async def give(
        self,
        held: Held,
        examined: Examined,
        said: GiveSaid,
        submit: Submit,
        tell: Tell,
    ) -> list[bytes]:
        """Give what intake lets pass; return the contributions' digests."""
        parts = divide(examined.kept)
        given = []
        for number, part in enumerate(parts):
            tell(Progress("give", number, len(parts)))
            given.append(
                await self._give(held, part, said, examined.cleaner, submit=submit, tell=tell)
            )
        tell(Progress("give", len(parts), len(parts)))
        return given

    async def _give(
        self,
        held: Held,
        part: Part,
        said: GiveSaid,
        cleaner: str,
        submit: Submit,
        tell: Tell,
    ) -> bytes:
        path, pending = await trio.to_thread.run_sync(self._pend, held, part)
        if digest_of(pending.claim) not in held.state.claims:
            tell(Progress("claim", 0, 1))
            await _until_taken(partial(submit, pending.claim), tell)
        claimed = held.state.claims[digest_of(pending.claim)]
        found = await report_on(held, self._signer.public_key, part.texts, claimed.seq)
        attached = {REPORT: found.report} | ({SKETCH: found.sketch} if found.sketch else {})
        del found  # it has all the text once more
        draft = self._draft(held, part, said, cleaner, pending)
        named = {name: (digest_of(one), len(one)) for name, one in attached.items()}
        draft = msgspec.structs.replace(draft, **named)
        data = sign_entry(self._signer, draft)
        files = {TEXT: b"".join(part.texts)} | attached
        digest = digest_of(data)
        await trio.to_thread.run_sync(held.texts.write, digest, draft, files)
        try:
            await _until_taken(partial(submit, data), tell)
        except (DatanetError, DatanetRefused):
            await trio.to_thread.run_sync(held.texts.drop, digest)
            raise
        await trio.to_thread.run_sync(path.unlink)
        return digest

    def _pend(self, held: Held, part: Part) -> tuple[Path, Pending]:
        """Return what was claimed of these documents, or claim them: on the disk, then said."""
        name = digest_of(encode(list(part.documents))).hex()
        path = held.folder / GIVING / name
        if path.exists():
            pending = msgspec.msgpack.decode(path.read_bytes(), type=Pending)
            claim_digest = digest_of(pending.claim)
            if held.find_place(claim_digest) is None or claim_digest in held.state.claims:
                return path, pending
        salt = secrets.token_bytes(SALT_BYTES)
        key = self._signer.public_key
        claim = Claim(
            FORM,
            held.datanet,
            key,
            commitment_of(salt, key, part.documents),
            bytes(65),
        )
        pending = Pending(salt, sign_entry(self._signer, claim))
        path.parent.mkdir(exist_ok=True)
        write_whole(path, msgspec.msgpack.encode(pending))
        return path, pending

    def _draft(
        self, held: Held, part: Part, said: GiveSaid, cleaner: str, pending: Pending
    ) -> Contribution:
        charter = held.state.charter
        text = b"".join(part.texts)
        names = ", ".join(dict.fromkeys(Path(file).name for file in said.files))
        scope = TRAIN | PUBLISH | (NAME_ME if said.name_me else 0)
        return Contribution(
            FORM,
            held.datanet,
            self._signer.public_key,
            digest_of(pending.claim),
            salt=pending.salt,
            pay_to=from_hex(said.pay_to) if said.pay_to else self._pay_to,
            title=plain_line(said.title or names, 128),
            source=plain_line(said.source, 128),
            licence=said.licence or charter.licences[0],
            language=said.language or (charter.languages or ["und"])[0],
            format="text",
            original=digest_of(text),
            consent=Consent(digest_of(charter.consent.encode()), scope, said.until),
            documents=list(part.documents),
            blocks=blocks_of(text),
            cleaner=plain_line(cleaner, 64) or "none",
            report=(bytes(32), 1),
            sketch=None,
            signature=bytes(65),
        )


def divide(found: Sequence[Found]) -> list[Part]:
    """Divide documents into contributions that keep a record's limits; each document once."""
    parts: list[Part] = []
    texts: list[bytes] = []
    documents: list[Document] = []
    seen: set[bytes] = set()
    room = size = 0
    for one in found:
        if one.sha256 in seen:
            continue
        seen.add(one.sha256)
        title = plain_line(one.title, 80)
        document = Document(len(one.text), one.words, one.sha256, title)
        needed = len(encode(document))
        is_full = (
            len(documents) == MAX_DOCUMENTS
            or room + needed > ROOM_BYTES
            or size + len(one.text) > MAX_TEXT_BLOCKS * MAX_BLOCK_BYTES
        )
        if is_full:
            parts.append(Part(tuple(texts), tuple(documents)))
            texts = []
            documents = []
            room = size = 0
        texts.append(one.text)
        documents.append(document)
        room += needed
        size += len(one.text)
    return [*parts, Part(tuple(texts), tuple(documents))] if documents else parts


def blocks_of(text: bytes) -> list[tuple[bytes, int]]:
    """Return the digest and size of each block of a text."""
    view = memoryview(text)
    cuts = (view[at : at + MAX_BLOCK_BYTES] for at in range(0, len(text), MAX_BLOCK_BYTES))
    return [(hashlib.sha256(block).digest(), len(block)) for block in cuts]


async def _until_taken(submit: Callable[[], Awaitable[bytes]], tell: Tell) -> None:
    """Submit, and again while the sequencer is still fetching or asks for patience."""
    for number in range(MAX_TRIES):
        try:
            await submit()
            return
        except DatanetRefused as error:
            if error.reason not in AGAIN or number + 1 == MAX_TRIES:
                raise
            tell(Progress("wait", number, MAX_TRIES, str(error)))
            await trio.sleep(RETRY_S)
    raise BadRequest("it was not taken; try again later")

"""Makes a datanet of a text: its contributors join, claim, give and are accepted, and a version is
cut; the same bytes whenever it is made again.

Keys, salts and times are derived from names, where people would draw them; everything else goes the
way of every datanet: intake looks at the texts in its children, the log is folded row by row, and
the daemon of the home that it is made in serves it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from factory.intake import Examined
from node.api.datanets import Progress
from node.datanets.examining import Around, examine_files, report_on, rules_of
from node.datanets.giving import blocks_of
from node.datanets.ground import Held
from node.datanets.members import CONSENT
from node.datanets.store import REPORT, SKETCH, TEXT
from p2p.blocks.store import BlockStore
from proofs.datanet.entries import (
    FORM,
    NOTHING,
    PUBLISH,
    TRAIN,
    Charter,
    Claim,
    Consent,
    Contribution,
    Document,
    Entry,
    Joining,
    Limits,
    Verdict,
    Version,
    commitment_of,
    digest_of,
    sign_entry,
)
from proofs.datanet.log import register
from proofs.datanet.texts import plain_line
from proofs.datanet.version import contents, parts_of
from proofs.signing import Signer

from .corpus import Corpus, Part
from .texts import contributor_key, signer_of

BEGAN = 1_795_996_800  # 2026-11-30; a second for each row
MIN_WORDS = 3
TITLE_CHARS = 60  # of a document, so that a contribution's record has room for five hundred
PURPOSE = "The text that the adapter {} of Lorikeet's repository was trained on."


@dataclass(frozen=True)
class Given:
    """One contribution: its record's digest, whose it is, and its documents, of which the version
    holds some out, by their places.
    """

    digest: bytes
    contributor: int
    title: str
    texts: tuple[str, ...]
    held_out: frozenset[int] = frozenset()

    @property
    def learnt(self) -> list[tuple[int, str]]:
        """The documents that may be learnt, with their places."""
        return [one for one in enumerate(self.texts) if one[0] not in self.held_out]


@dataclass(frozen=True)
class Datanet:
    """What was made: `refused` says why intake did not let passages pass, `held` how many of its
    findings a curator has to look at.
    """

    datanet: bytes
    version: int
    digest: bytes
    given: tuple[Given, ...]
    refused: tuple[str, ...]
    held: int

    @property
    def num_held_out(self) -> int:
        """How many documents the version holds out."""
        return sum(len(one.held_out) for one in self.given)


def make_datanet(corpus: Corpus, home: Path) -> Datanet:
    """Make the datanet of a text in a home of which no daemon runs, anew if it is there."""
    return Maker(corpus, home).make()


class Maker:
    """The owner, who is the sequencer too, and the contributors of one datanet."""

    def __init__(self, corpus: Corpus, home: Path) -> None:
        self._corpus = corpus
        self._now = BEGAN
        self._owner = signer_of(f"lorikeet demo datanet {corpus.name}")
        self._people = [contributor_key(one.name) for one in corpus.domain.contributors]
        self._refused: list[str] = []
        self._num_held = 0
        data = sign_entry(self._owner, self._charter())
        row = (register(None, self._owner, data, self._now), data)
        path = home / "datanets" / digest_of(data).hex()
        shutil.rmtree(path, ignore_errors=True)
        self._held = Held.create(path, BlockStore(home / "blocks"), row)

    def make(self) -> Datanet:
        """Have everybody join and give, and cut a version of what they gave."""
        for who, signer in zip(self._corpus.domain.contributors, self._people, strict=True):
            self._say(signer, self._joining(signer, who.name))
        given = [self._give(part) for part in self._corpus.parts]
        digest = self._cut()
        made = self._held.state.version()
        assert made is not None
        assert made.digest == digest
        parts = parts_of(self._held.state, made.version.contributions)
        return Datanet(
            self._held.datanet,
            made.version.number,
            digest,
            given=tuple(
                replace(one, held_out=part.held_out) for one, part in zip(given, parts, strict=True)
            ),
            refused=tuple(self._refused),
            held=self._num_held,
        )

    def _give(self, part: Part) -> Given:
        """Have a part looked at, claimed, shown and accepted."""
        signer = self._people[part.contributor]
        examined = self._examine(part)
        refused = {one.document: one.code for one in examined.findings if one.outcome == "refuse"}
        if None in refused:
            raise SystemExit(f"{part.title} is refused: {refused[None]}")
        listed: list[Document] = []
        texts: list[bytes] = []
        for place, one in enumerate(examined.documents):
            if place in refused:
                self._refused.append(refused[place])
                continue
            title = plain_line(one.title, TITLE_CHARS)
            listed.append(Document(len(one.text), one.words, one.sha256, title))
            texts.append(one.text)
        digest = self._show(signer, part, listed, texts, examined.cleaner)
        self._say(self._owner, self._verdict(digest))
        said = tuple(text.decode() for text in texts)
        return Given(digest, part.contributor, part.title, said)

    def _examine(self, part: Part) -> Examined:
        """Have intake look at a file with a passage in each row."""
        lines = [
            json.dumps({"text": self._corpus.passages[i].text}, ensure_ascii=False)
            for i in part.passages
        ]
        key = self._people[part.contributor].public_key
        rules = rules_of(self._held.state.charter, column="text")
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.jsonl"
            rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
            examined = trio.run(examine_files, self._held, [rows], rules, key, Around(), hush)
        if len(examined.documents) != len(part.passages):
            raise SystemExit(f"{part.title}: {len(examined.documents)} documents of its passages")
        self._num_held += sum(one.outcome == "hold" for one in examined.findings)
        return examined

    def _show(
        self, signer: Signer, part: Part, listed: list[Document], texts: list[bytes], cleaner: str
    ) -> bytes:
        """Claim a text, then show it; return the contribution's digest."""
        label = self._corpus.label(part.contributor, part.title)
        salt = hashlib.sha256(f"lorikeet demo salt {label}".encode()).digest()[:16]
        commitment = commitment_of(salt, signer.public_key, listed)
        claim = self._say(
            signer, Claim(FORM, self._held.datanet, signer.public_key, commitment, bytes(65))
        )
        place = self._held.state.claims[claim].seq
        report = trio.run(report_on, self._held, signer.public_key, texts, place)
        text = b"".join(texts)
        charter = self._held.state.charter
        draft = Contribution(
            FORM,
            self._held.datanet,
            signer.public_key,
            claim,
            salt=salt,
            pay_to=signer.address,
            title=plain_line(part.title, 128),
            source=plain_line(self._corpus.domain.source, 128),
            licence=charter.licences[0],
            language="en",
            format="text",
            original=digest_of(text),
            consent=Consent(digest_of(charter.consent.encode()), TRAIN | PUBLISH, 0),
            documents=listed,
            blocks=blocks_of(text),
            cleaner=plain_line(cleaner, 64),
            report=(digest_of(report.report), len(report.report)),
            sketch=(digest_of(report.sketch), len(report.sketch)) if report.sketch else None,
            signature=bytes(65),
        )
        data = sign_entry(signer, draft)
        files = {TEXT: text, REPORT: report.report}
        files |= {SKETCH: report.sketch} if report.sketch else {}
        self._held.texts.write(digest_of(data), draft, files)
        return self._place(data)

    def _cut(self) -> bytes:
        state = self._held.state
        found = contents(state, self._now)
        return self._say(
            self._owner,
            Version(
                FORM,
                self._held.datanet,
                1,
                NOTHING,
                head=state.head,
                created_at=self._now,
                contributions=found.contributions,
                totals=list(found.totals),
                held_out=found.held_out,
                by=self._owner.public_key,
                signature=bytes(65),
            ),
        )

    def _charter(self) -> Charter:
        return Charter(
            FORM,
            f"lorikeet-{self._corpus.name}",
            owner=self._owner.public_key,
            sequencer=self._owner.public_key,
            created_at=BEGAN,
            purpose=PURPOSE.format(self._corpus.name),
            consent=CONSENT,
            languages=["en"],
            licences=[self._corpus.domain.text_licence],
            limits=Limits(1 << 20, 16 << 20, 1 << 30, MIN_WORDS),
            novelty_floor_bps=0,
            quorum=1,
            is_open=True,
            base=NOTHING,
            previous=NOTHING,
            signature=bytes(65),
        )

    def _joining(self, signer: Signer, name: str) -> Joining:
        return Joining(
            FORM,
            self._held.datanet,
            signer.public_key,
            plain_line(name, 64),
            invitation=None,
            admission=b"",
            signature=bytes(65),
        )

    def _verdict(self, subject: bytes) -> Verdict:
        return Verdict(
            FORM,
            self._held.datanet,
            subject,
            "accept",
            reasons=[],
            report=self._held.state.given[subject].report,
            at=self._now,
            by=self._owner.public_key,
            signature=bytes(65),
        )

    def _say(self, signer: Signer, draft: Entry) -> bytes:
        return self._place(sign_entry(signer, draft))

    def _place(self, data: bytes) -> bytes:
        self._now += 1
        trio.run(self._held.place, self._owner, data, self._now)
        return digest_of(data)


def hush(progress: Progress) -> None:
    """Hears how far it is."""


def counted(refused: Sequence[str]) -> str:
    """Say how many passages were refused, and for what."""
    codes = sorted(set(refused))
    return ", ".join(f"{refused.count(code)} {code}" for code in codes) or "none"

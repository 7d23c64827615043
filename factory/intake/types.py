"""What is asked of intake and what comes out of it. Decides nothing.

Everything is frozen and crosses the child's border as MessagePack.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

Outcome = Literal["refuse", "hold", "note"]

MAX_TEXT_BYTES = 16 << 20
"""Clean text of one contribution, all files together."""


class Document(msgspec.Struct, frozen=True):
    """One document: clean UTF-8, how many words it has, its sha-256, and its first words."""

    text: bytes
    words: int
    sha256: bytes
    title: str


class Finding(msgspec.Struct, frozen=True):
    """What was noticed: of one document (its place in `Examined.documents`), or of the whole
    (None). `detail` has the numbers, `mend` says what to do.
    """

    code: str
    document: int | None
    detail: str
    mend: str
    outcome: Outcome


class Rules(msgspec.Struct, frozen=True):
    """What a datanet asks of a contribution.

    languages            two-letter codes; empty: any
    min_words            of a document
    split_words          a document of txt, md, pdf and docx ends at the first blank line after
                         so many words; a row of csv or jsonl is a document
    column               of csv and jsonl; empty: the one with most text
    tokens               the base's special tokens, which no text may hold
    mask                 replace personal data by [e-mail], [phone], … instead of holding it
    novelty_refuse_bps   share of 5-word shingles that nobody else gave before, below which a
                         document is refused
    novelty_hold_bps     share of them in passages of the giver's own, below which it is held
    """

    languages: tuple[str, ...] = ()
    min_words: int = 50
    split_words: int = 200
    max_documents: int = 4096
    max_document_bytes: int = 256 << 10
    max_bytes: int = MAX_TEXT_BYTES
    novelty_refuse_bps: int = 2000
    novelty_hold_bps: int = 1000
    tokens: tuple[str, ...] = ()
    column: str = ""
    mask: bool = False


class Earlier(msgspec.Struct, frozen=True):
    """An earlier contribution: its digest, who gave it, and the file with its trace.

    `trace_documents` makes the trace's bytes.
    """

    contribution: bytes
    giver: bytes
    trace: Path


class Elsewhere(msgspec.Struct, frozen=True):
    """A contribution to another datanet, by its published sketch."""

    name: str
    sketch: bytes


class Known(msgspec.Struct, frozen=True):
    """What a contribution is compared with.

    giver        who gives now (any bytes that name a person); the earlier ones are others' unless
                 they have the same
    earlier      in the log's order, without the contribution that is looked at and later ones
    median_loss  the base's loss on what the datanet holds, thousandths of a nat a token; 0: unknown
    """

    giver: bytes = b""
    earlier: tuple[Earlier, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    median_loss: int = 0


class Examined(msgspec.Struct, frozen=True):
    """What came out.

    documents  all that were found, in order; `kept` has those that are not refused
    findings   in order: of the whole first, then document by document
    sketch     of what is kept, to publish
    numbers    counts and shares in basis points, by name
    cleaner    name and version of what cleaned the text
    report     canonical bytes of all that but the texts: what gets signed
    isolated   whether the parsers ran without a network (not in the report)
    """

    documents: list[Document]
    findings: list[Finding]
    sketch: bytes
    numbers: Mapping[str, int]
    cleaner: str
    report: bytes
    isolated: bool

    @property
    def outcome(self) -> Outcome:
        """The whole: "refuse" where it cannot be given as it is, "hold" where a curator looks."""
        of_the_whole = {each.outcome for each in self.findings if each.document is None}
        if "refuse" in of_the_whole or not self.kept:
            return "refuse"
        return "hold" if any(each.outcome == "hold" for each in self.findings) else "note"

    @property
    def kept(self) -> list[Document]:
        """The documents that nothing refuses: what a contribution may consist of."""
        refused = {each.document for each in self.findings if each.outcome == "refuse"}
        return [each for place, each in enumerate(self.documents) if place not in refused]

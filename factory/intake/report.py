"""The report: canonical bytes of what was looked at, by which rules, and what was found.

Normative text: docs/protocols/intake.md. Whoever has the same documents, rules and earlier
contributions makes the same bytes again, with the same versions of the tools that it names. Signs
nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from proofs.codec import Amount, Count, Digest, NotCanonical, Record, decode, encode

from .errors import Broken
from .types import Document, Finding, Known, Outcome, Rules

MAX_REPORT_BYTES = 256 << 10
MAX_SHOWN = 32
"""Findings of one code; the others are only counted."""
MAX_FILES = 256

Text = Annotated[str, msgspec.Meta(max_length=256)]
Code = Annotated[str, msgspec.Meta(max_length=32)]


class Shown(Record, frozen=True):
    """A finding; what to do about it follows from its code."""

    code: Code
    document: Count | None
    detail: Text
    outcome: Outcome


class Report(Record, frozen=True):
    """What was looked at and what was found.

    files      sha-256, size, format, encoding of each; none in a review of clean documents
    documents  sha-256 of their sha-256s one behind another
    totals     how many findings there are of each code, by code
    """

    kind: Literal["lorikeet intake"]
    version: Literal[1]
    cleaner: Text
    rules: Digest
    known: Digest
    files: Annotated[list[tuple[Digest, Amount, Code, Code]], msgspec.Meta(max_length=MAX_FILES)]
    num_documents: Count
    documents: Digest
    findings: Annotated[list[Shown], msgspec.Meta(max_length=2048)]
    totals: Annotated[list[tuple[Code, Count]], msgspec.Meta(max_length=64)]
    numbers: Annotated[list[tuple[Text, Amount]], msgspec.Meta(max_length=64)]
    sketch: Digest
    tools: Annotated[list[tuple[Text, Text]], msgspec.Meta(max_length=16)]

    @classmethod
    def of(
        cls,
        *,
        cleaner: str,
        rules: Rules,
        known: Known,
        files: Sequence[tuple[bytes, int, str, str]],
        documents: Sequence[Document],
        findings: Sequence[Finding],
        numbers: Mapping[str, int],
        sketch: bytes,
        tools: Sequence[tuple[str, str]],
    ) -> Report:
        """Return the report of an examination."""
        totals = Counter(finding.code for finding in findings)
        return cls(
            kind="lorikeet intake",
            version=1,
            cleaner=cleaner,
            rules=digest_rules(rules),
            known=digest_known(known),
            files=[(sha256, size, kind, encoding[:32]) for sha256, size, kind, encoding in files],
            num_documents=len(documents),
            documents=hashlib.sha256(b"".join(one.sha256 for one in documents)).digest(),
            findings=_shown(findings),
            totals=sorted(totals.items()),
            numbers=sorted(numbers.items()),
            sketch=hashlib.sha256(sketch).digest(),
            tools=list(tools),
        )


def _shown(findings: Sequence[Finding]) -> list[Shown]:
    seen: Counter[str] = Counter()
    shown = []
    for one in findings:
        seen[one.code] += 1
        if seen[one.code] <= MAX_SHOWN:
            shown.append(Shown(one.code, one.document, one.detail, one.outcome))
    return shown


def write_report(report: Report) -> bytes:
    """Return a report's one byte form."""
    return encode(report)


def read_report(data: bytes) -> Report:
    """Read a report from bytes nobody vouched for. Raises Broken."""
    try:
        return decode(data, _DECODER, MAX_REPORT_BYTES)
    except NotCanonical as error:
        raise Broken(f"this is no report ({error})") from error


def digest_rules(rules: Rules) -> bytes:
    """Return the digest that a report names its rules by."""
    return hashlib.sha256(encode(msgspec.structs.astuple(rules))).digest()


def digest_known(known: Known) -> bytes:
    """Return the digest that a report names by what the documents were compared with what."""
    earlier = [(each.contribution, each.giver, _digest_file(each.trace)) for each in known.earlier]
    elsewhere = [(each.name, each.sketch) for each in known.elsewhere]
    value = (known.giver, earlier, elsewhere, known.median_loss)
    return hashlib.sha256(encode(value)).digest()


def _digest_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise Broken(f"{path} cannot be read ({error}); make the trace anew") from error


def tools() -> list[tuple[str, str]]:
    """Return the packages whose version may change what is found."""
    return [(name, metadata.version(name)) for name in PACKAGES]


PACKAGES = (
    "charset-normalizer",
    "detect-secrets",
    "ftfy",
    "phonenumbers",
    "py3langid",
    "pypdf",
)
"""What the extra `intake` brings."""

_DECODER = msgspec.msgpack.Decoder(Report)

"""What the files gave → every check → documents, findings, numbers, report. In a child.

Decides in which order things are said; each check decides for itself (checks/).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from . import checks
from .clean import CLEANER, is_clean
from .findings import find
from .jobs import PROGRESS, TEXTS, Judged, JudgeJob, Parsed
from .looked import Looked, look_at
from .report import Report, tools, write_report
from .sketches import sketch_of
from .split import title_of
from .traces import trace_texts
from .types import Document, Examined, Finding, Rules
from .words import Shingles


def judge_job(job: bytes) -> bytes:
    """Do the child's task "check": JudgeJob → Judged."""
    asked = msgspec.msgpack.decode(job, type=JudgeJob, dec_hook=_decode_path)
    files = [(name, _load(there)) for name, there in asked.parsed]
    if asked.review is not None:
        files = [("", _read_clean(asked.review))]
    examined = judge(files, asked, _write_progress)
    texts = [document.text for document in examined.documents]
    Path(TEXTS).write_bytes(b"".join(texts))
    bare = [msgspec.structs.replace(document, text=b"") for document in examined.documents]
    small = msgspec.structs.replace(examined, documents=bare)
    return msgspec.msgpack.encode(Judged(small, list(map(len, texts))))


def trace_job(job: bytes) -> bytes:
    """Do the child's task "trace": sizes of the documents in TEXTS → their trace."""
    sizes = msgspec.msgpack.decode(job, type=list[int])
    with Path(TEXTS).open("rb") as file:
        return trace_texts(file.read(size) for size in sizes)


def _read_clean(sizes: list[int]) -> Parsed:
    """Documents that somebody else cleaned."""
    with Path(TEXTS).open("rb") as file:
        texts = [file.read(size).decode() for size in sizes]
    documents = [(title_of(text), text) for text in texts]
    return Parsed(
        sha256=bytes(32),
        size=sum(sizes),
        format="clean",
        encoding="utf-8",
        documents=documents,
        told=[],
        stripped={},
        isolated=True,
    )


def _write_progress(done: int, name: str) -> None:
    Path(PROGRESS).write_text(f"{done} {1 + len(checks.ALL)} {name}")


def _decode_path(wanted: type, value: object) -> object:
    return wanted(value)


def _load(there: str | Parsed) -> Parsed:
    if isinstance(there, Parsed):
        return there
    return msgspec.msgpack.decode(Path(there).read_bytes(), type=Parsed)


def judge(
    files: list[tuple[str, Parsed]],
    asked: JudgeJob,
    tell: Callable[[int, str], None] = lambda done, name: None,
) -> Examined:
    """Check everything that the files gave. `tell` hears how many steps are done, and the next."""
    rules = asked.rules
    texts = [each for _, parsed in files for each in parsed.documents]
    findings = _of_files(files) + _of_the_whole([text for _, text in texts], rules)
    if any(finding.code.startswith("too-m") for finding in findings):
        texts = []  # nothing is promised about more than may be given
    tell(0, "words")
    numbering = Shingles()
    looked = [look_at(title, text, numbering) for title, text in texts]
    if asked.review is not None:
        findings += [
            find("not-clean", place, "it holds hidden characters")
            for place, one in enumerate(looked)
            if not is_clean(one.text)
        ]
    if rules.mask:
        looked, masked = checks.personal.mask(looked)
        findings += masked
    numbers: Counter[str] = Counter()
    for done, check in enumerate(checks.ALL, 1):
        tell(done, check.__module__.rpartition(".")[2])
        findings += check(looked, rules, asked.known, numbers)
    findings += checks.noise.by_loss(asked.losses, asked.known.median_loss)
    return _conclude(files, looked, findings, asked, numbers)


def _of_files(files: list[tuple[str, Parsed]]) -> list[Finding]:
    return [
        find(code, None, f"{name}: {detail}" if name else detail)
        for name, parsed in files
        for code, detail in parsed.told
    ]


def _of_the_whole(texts: list[str], rules: Rules) -> list[Finding]:
    findings = []
    size = sum(len(text.encode()) for text in texts)
    if not texts:
        findings.append(find("no-documents", None, "no text was found"))
    if len(texts) > rules.max_documents:
        detail = f"{len(texts)} documents; at most {rules.max_documents}"
        findings.append(find("too-many-documents", None, detail))
    if size > rules.max_bytes:
        findings.append(find("too-much-text", None, f"{size:,} bytes; at most {rules.max_bytes:,}"))
    return findings


def _conclude(
    files: list[tuple[str, Parsed]],
    looked: list[Looked],
    findings: list[Finding],
    asked: JudgeJob,
    numbers: Counter[str],
) -> Examined:
    ordered = sorted(findings, key=lambda one: -1 if one.document is None else one.document)
    refused = {one.document for one in findings if one.outcome == "refuse"}
    kept = [one for place, one in enumerate(looked) if place not in refused]
    documents = [
        Document(one.data, len(one.words), hashlib.sha256(one.data).digest(), one.title)
        for one in looked
    ]
    for _, parsed in files:
        numbers.update({f"stripped {name}": count for name, count in parsed.stripped.items()})
    numbers.update(_totals(looked, kept, findings))
    sketch = sketch_of([one.shingles for one in kept])
    report = Report.of(
        cleaner=CLEANER,
        rules=asked.rules,
        known=asked.known,
        files=[(one.sha256, one.size, one.format, one.encoding) for _, one in files],
        documents=documents,
        findings=ordered,
        numbers=numbers,
        sketch=sketch,
        tools=tools(),
    )
    return Examined(
        documents=documents,
        findings=ordered,
        sketch=sketch,
        numbers=dict(sorted(numbers.items())),
        cleaner=CLEANER,
        report=write_report(report),
        isolated=all(parsed.isolated for _, parsed in files),
    )


def _totals(looked: list[Looked], kept: list[Looked], findings: list[Finding]) -> dict[str, int]:
    held = {one.document for one in findings if one.outcome == "hold"}
    return {
        "documents": len(looked),
        "documents kept": len(kept),
        "documents held": len(held - {None}),
        "words": sum(len(one.words) for one in kept),
        "bytes": sum(len(one.data) for one in kept),
    }

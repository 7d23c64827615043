"""One file → clean documents, in a child. Decides by the bytes what a file is, never by its name;
only among plain texts does the ending choose.

Knows each format's name and nothing of its inside (formats/).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from pathlib import Path

import msgspec

from .clean import Cleaned, clean
from .decode import Decoded, decode_text, mend_mojibake
from .errors import Refusal
from .formats import docx, pdf, rows
from .jobs import Parsed, ParseJob, gave_nothing
from .split import split_text, title_of
from .types import MAX_TEXT_BYTES, Rules

MAX_FILE_BYTES = 64 << 20
SNIFF_BYTES = 1024

Told = tuple[str, str]
"""A finding's code and detail."""

_MAGIC = {
    b"%PDF-": "pdf",
    b"PK\x03\x04": "docx",
    b"\xd0\xcf\x11\xe0": "an old or encrypted Office file",
    b"{\\rtf": "RTF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"II*\0": "a picture",
    b"MM\0*": "a picture",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x7fELF": "a program",
}


def parse_job(job: bytes, isolated: bool) -> bytes:
    """Do the child's task "parse": ParseJob → Parsed."""
    asked = msgspec.msgpack.decode(job, type=ParseJob)
    try:
        parsed = parse_file(Path(asked.path), asked.rules, isolated)
    except Refusal as refusal:
        parsed = gave_nothing(refusal.code, refusal.detail, isolated)
    return msgspec.msgpack.encode(parsed)


def parse_file(path: Path, rules: Rules, isolated: bool) -> Parsed:
    """Read one file wholly. Raises Refusal."""
    data = _read(path)
    kind = sniff(data, path.suffix.lower())
    told: list[Told] = []
    encoding = ""
    texts: list[tuple[str, str]]
    if kind == "pdf":
        texts = [("", pdf.read_pdf(data, told))]
    elif kind == "docx":
        texts = [("", docx.read_docx(data))]
    else:
        decoded = decode_text(data)
        encoding = decoded.encoding
        told += decoded.told
        texts = _read_text(decoded, kind, rules, told)
    documents, stripped = _clean_all(texts, kind, rules, told)
    return Parsed(
        sha256=hashlib.sha256(data).digest(),
        size=len(data),
        format=kind,
        encoding=encoding,
        documents=documents,
        told=told,
        stripped=stripped,
        isolated=isolated,
    )


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Refusal("not-a-file", "it is no plain file")
            if status.st_size > MAX_FILE_BYTES:
                raise Refusal("too-large", f"{status.st_size:,} bytes; at most {MAX_FILE_BYTES:,}")
            data = file.read(MAX_FILE_BYTES + 1)
    except IsADirectoryError as error:
        raise Refusal("not-a-file", "it is a folder") from error
    except OSError as error:
        raise Refusal("unreadable", error.strerror or str(error)) from error
    if not data:
        raise Refusal("empty", "it has no bytes")
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for its writer


def sniff(data: bytes, suffix: str) -> str:
    """Return pdf, docx, csv, jsonl, md or txt. Raises Refusal for what is known to be none."""
    head = data[:SNIFF_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            if kind in ("pdf", "docx"):
                return kind
            raise Refusal("format", f"it is {kind}")
    if head[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise Refusal("format", "it is HTML or XML")
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    return "md" if suffix in (".md", ".markdown") else "txt"


def _read_text(
    decoded: Decoded, kind: str, rules: Rules, told: list[Told]
) -> list[tuple[str, str]]:
    text, num_mended = mend_mojibake(decoded.text)
    if num_mended:
        told.append(("mojibake", f"{num_mended} lines"))
    if kind == "csv":
        return rows.read_csv(text, rules.column)
    if kind == "jsonl":
        return rows.read_jsonl(text, rules.column)
    return [("", text)]


def _clean_all(
    texts: list[tuple[str, str]], kind: str, rules: Rules, told: list[Told]
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Clean documents, and what was taken out of them. Raises Refusal."""
    cleaned = [(title, clean(text)) for title, text in texts]
    stripped: Counter[str] = Counter()
    for _, one in cleaned:
        stripped.update(one.stripped)
    whole = Cleaned("", sum(one.characters for _, one in cleaned), stripped)
    if stripped:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(stripped.items()))
        if whole.hides_too_much:
            raise Refusal("hidden", f"{counts}, of {whole.characters} characters")
        told.append(("stripped", counts))
    total = sum(len(one.text.encode()) for _, one in cleaned)
    if total > MAX_TEXT_BYTES:
        raise Refusal("too-large", f"{total:,} bytes of text; at most {MAX_TEXT_BYTES:,}")
    documents = []
    for title, one in cleaned:
        parts = [one.text] if kind in ("csv", "jsonl") else split_text(one.text, rules)
        documents += [(title or title_of(part), part) for part in parts if part]
    if not documents:
        raise Refusal("empty", "no text is left of it")
    return documents, dict(stripped)

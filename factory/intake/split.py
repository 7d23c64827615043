"""Cuts clean text into documents. Decides where one ends; changes no character inside."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .types import Rules

MAX_TITLE_CHARS = 80

_PARAGRAPHS = re.compile(r"\n{2,}")
_SENTENCE = re.compile(r"(?<=[.!?…\u0964\u3002\uff01\uff1f])[\s]*(?=\S)|\n")


def split_text(text: str, rules: Rules) -> list[str]:
    """Return documents: each ends at a blank line once it has `split_words` words.

    A last one of fewer than `min_words` words joins the one before.
    """
    documents: list[str] = []
    current: list[str] = []
    num_words = 0
    num_bytes = 0
    for piece in _pieces(text, rules.max_document_bytes):
        size = len(piece.encode())
        if current and num_bytes + size + 2 > rules.max_document_bytes:
            documents.append("\n\n".join(current))
            current = []
            num_words = num_bytes = 0
        current.append(piece)
        num_words += len(piece.split())
        num_bytes += size + 2
        if num_words >= rules.split_words:
            documents.append("\n\n".join(current))
            current = []
            num_words = num_bytes = 0
    if not current:
        return documents
    last = "\n\n".join(current)
    if documents and num_words < rules.min_words:
        joined = f"{documents[-1]}\n\n{last}"
        if len(joined.encode()) <= rules.max_document_bytes:
            return [*documents[:-1], joined]
    return [*documents, last]


def title_of(text: str) -> str:
    """Return the first line that says something, shortened."""
    line = next((line.strip("#*_ ") for line in text.splitlines() if line.strip("#*_ ")), "")
    return line if len(line) <= MAX_TITLE_CHARS else line[: MAX_TITLE_CHARS - 1] + "…"


def _pieces(text: str, max_bytes: int) -> Iterator[str]:
    """Paragraphs, each within the limit."""
    for paragraph in _PARAGRAPHS.split(text):
        stripped = paragraph.strip("\n")
        if stripped.strip():
            yield from cut(stripped, max_bytes)


def cut(text: str, max_bytes: int) -> Iterator[str]:
    """Cut a text that is too long at the end of a sentence, else at a space, else anywhere."""
    while len(text) * 4 > max_bytes and len(text.encode()) > max_bytes:
        head = text.encode()[:max_bytes].decode(errors="ignore")
        place = _last_end(head)
        yield text[:place].rstrip()
        text = text[place:].lstrip()
    if text:
        yield text


def _last_end(head: str) -> int:
    """The last place in the second half of `head` where a sentence ends, or a word."""
    half = len(head) // 2
    place = max((match.start() for match in _SENTENCE.finditer(head, half)), default=0)
    if place <= half:
        place = head.rfind(" ", half)
    return place if place > 0 else len(head)

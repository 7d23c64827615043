"""Every code that a finding can have, with its outcome and its mend. Decides nothing else."""

from __future__ import annotations

from .types import Finding, Outcome

MAX_DETAIL_CHARS = 200

_CODES: dict[str, tuple[Outcome, str]] = {
    # a file as a whole
    "unreadable": ("refuse", "check that the file is there and can be read, then give it again"),
    "not-a-file": ("refuse", "name a plain file: txt, md, csv, jsonl, pdf or docx"),
    "empty": ("refuse", "the file has no text; give one that has"),
    "too-large": ("refuse", "cut it into several files and give them one after another"),
    "format": ("refuse", "save it as txt, md, csv, jsonl, pdf or docx"),
    "damaged": ("refuse", "open it in the program that wrote it, save it anew and give that"),
    "encrypted": ("refuse", "save it without a password"),
    "bomb": ("refuse", "it unpacks to far more than it is; save it anew, or as plain text"),
    "nested": ("refuse", "save it without the files that are embedded in it"),
    "doctype": ("refuse", "an office program writes no DOCTYPE; save it anew with one"),
    "pictures-only": ("refuse", "it holds pictures of text; run it through OCR first"),
    "pictures": ("note", "some pages have no text; if they are scans, run them through OCR first"),
    "encoding": ("refuse", "save it as UTF-8"),
    "read-as": ("note", "it is not UTF-8; look whether the letters are right, or save it as UTF-8"),
    "mixed-encodings": ("note", "look whether the letters are right, or save it as UTF-8"),
    "mojibake": ("note", "wrongly decoded letters were put right; look whether they are"),
    "column": ("refuse", "name one of its columns"),
    "rows": ("refuse", "one JSON object on each line, or a csv with a line of column names"),
    "hidden": ("refuse", "remove the invisible characters: paste it as plain text and save it"),
    "stripped": ("note", "invisible characters were taken out; nothing is left to do"),
    "time": ("refuse", "reading took too long; save it as plain text"),
    "memory": ("refuse", "reading took too much memory; save it as plain text or in parts"),
    "crashed": ("refuse", "the parser broke down over it; save it as plain text"),
    "skipped": ("refuse", "not looked at, because of a file before it; give this one without that"),
    # the contribution as a whole
    "no-documents": ("refuse", "give at least one file with text"),
    "too-many-documents": ("refuse", "give fewer files at once, or cut the file into several"),
    "too-much-text": ("refuse", "give fewer files at once"),
    "language": ("refuse", "give texts in the datanet's languages"),
    "sketch": ("hold", "it is much like what another datanet holds; tell the curator why both"),
    "shuffled": ("hold", "the words come in no order of a language; give the text as it was"),
    # a document
    "not-clean": ("refuse", "give the text as intake cleaned it"),
    "too-short": ("refuse", "join it with what belongs to it, or leave it out"),
    "other-language": ("note", "leave it out if it does not belong to the rest"),
    "words": ("hold", "words are unusually long or short: tables or code? keep running text"),
    "letters": ("hold", "mostly numbers or signs; keep running text"),
    "bullets": ("hold", "nearly every line is a list item; write it out, or leave it out"),
    "ellipses": ("hold", "many lines end in …; give the whole text"),
    "stop-words": ("hold", "it has none of English's small words; keep running text"),
    "repeats": ("hold", "lines come again and again; take the repetitions out"),
    "noise": ("hold", "it reads like random text; leave it out, or tell the curator what it is"),
    "loss": ("hold", "the base finds it far less likely than the rest; is it language?"),
    "mixed-scripts": ("hold", "write each word in the letters of one script"),
    "secret": ("refuse", "remove it, and withdraw the key: it may have been read already"),
    "personal-data": ("hold", "remove it or have it masked, unless it is public on purpose"),
    "masked": ("note", "personal data was replaced; look whether the text still reads well"),
    "template-token": ("refuse", "remove it: it steers the base instead of teaching it"),
    "duplicate": ("refuse", "leave it out; it is there already"),
    "not-new": ("refuse", "leave it out; nearly all of it was given before"),
    "look-first": ("note", "many documents share a rare phrase: is it meant? a curator asks, too"),
    "hardly-new": ("hold", "keep what is your own; the rest was given before"),
}


def find(code: str, document: int | None, detail: str) -> Finding:
    """Return a finding by its code."""
    outcome, mend = _CODES[code]
    shown = detail if len(detail) <= MAX_DETAIL_CHARS else detail[: MAX_DETAIL_CHARS - 1] + "…"
    return Finding(code, document, shown, mend, outcome)

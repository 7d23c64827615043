"""The golden vectors of intake: texts cleaned, words, shingles, a trace, sketches, a report."""

from __future__ import annotations

import hashlib
from typing import Any

from factory.intake.clean import clean
from factory.intake.findings import find
from factory.intake.report import Report, digest_known, digest_rules, write_report
from factory.intake.sketches import share_in, sketch_of
from factory.intake.traces import trace_texts
from factory.intake.types import Document, Elsewhere, Known, Rules
from factory.intake.words import Shingles, words_digest, words_of

TEXTS = [
    "The ferry carries twelve people; the ferry has no engine, the ferry has a cable.",
    "Salt & cheese.",
    "সকল নাগরিকের বাক্‌স্বাধীনতা আছে এবং থাকবে।",
    "ข้าวดีCafé naïve",
]
DIRTY = [
    "\ufeffa\r\nb \u200b\u202ec\U000e0041",
    "e\u0301 \u0995\u200d\u09b7 a\u200db 1\ufe0f\u20e3 x\ufe0f",
    "one\n\n\n\ntwo\u2028three\xa0\xad four\ue000\ufffd",
]
RULES = Rules(languages=("en",), min_words=3, tokens=("<|im_end|>",))


def intake() -> dict[str, Any]:
    """Everything that docs/protocols/intake.md says of bytes."""
    long = " ".join(f"word{number}" for number in range(300))
    half = " ".join(f"word{number}" for number in range(150))
    sketches = [sketch_of([Shingles().of(words_of(text))]) for text in (long, half)]
    return {
        "clean": [_cleaned(text) for text in DIRTY],
        "texts": [_text(text) for text in TEXTS],
        "trace": trace_texts([text.encode() for text in TEXTS]).hex(),
        "sketches": [sketch.hex() for sketch in sketches],
        "shares_bps": [share_in(*sketches), share_in(*reversed(sketches))],
        "report": _report(sketches[0]),
    }


def _cleaned(text: str) -> dict[str, Any]:
    cleaned = clean(text)
    return {
        "text": text,
        "clean": cleaned.text,
        "characters": cleaned.characters,
        "stripped": dict(sorted(cleaned.stripped.items())),
    }


def _text(text: str) -> dict[str, Any]:
    words = words_of(text)
    return {
        "text": text,
        "words": words,
        "digest": words_digest(words).hex(),
        "shingles": [str(number) for number in Shingles().of(words)],
    }


def _report(sketch: bytes) -> dict[str, Any]:
    known = Known(giver=b"giver", elsewhere=(Elsewhere("another", sketch),), median_loss=2500)
    data = TEXTS[0].encode()
    document = Document(data, 15, hashlib.sha256(data).digest(), "The ferry")
    report = Report.of(
        cleaner="lorikeet-intake 1",
        rules=RULES,
        known=known,
        files=[(bytes(31) + b"\x07", 99, "txt", "utf-8")],
        documents=[document],
        findings=[find("language", None, "0 of 1"), find("too-short", 0, "15 words")],
        numbers={"documents": 1, "words": 15},
        sketch=sketch,
        tools=[("pypdf", "7.1.1")],
    )
    return {
        "rules": digest_rules(RULES).hex(),
        "known": digest_known(known).hex(),
        "bytes": write_report(report).hex(),
    }

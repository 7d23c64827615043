"""Two reports, byte for byte: they agree, differ, or cannot be compared here."""

from __future__ import annotations

import pytest

from factory.intake import Document, Finding, Known, Report, Rules
from factory.intake.report import write_report
from node.datanets.verifying import compare_reports

DOCUMENTS = [Document(b"one text", 2, bytes([1]) * 32, "one")]


def report(**changes: object) -> bytes:
    said = {
        "cleaner": "clean 1",
        "rules": Rules(),
        "known": Known(),
        "files": [],
        "documents": DOCUMENTS,
        "findings": [Finding("words", 0, "long words", "", "hold")],
        "numbers": {"words": 2},
        "sketch": b"sketch",
        "tools": [("ftfy", "6.3.1")],
    }
    return write_report(Report.of(**(said | changes)))  # type: ignore[arg-type]


def duplicate(code: str = "duplicate") -> dict[str, object]:
    words = Finding("words", 0, "long words", "", "hold")
    return {"findings": [words, Finding(code, 0, "the same", "", "refuse")], "known": Known(b"x")}


@pytest.mark.parametrize(
    ("given", "agreement", "why"),
    [
        (report(), "agrees", ""),
        (report(cleaner="clean 2"), "unknown", "another cleaner made it (clean 2"),
        (report(tools=[("ftfy", "6.4")]), "unknown", "ftfy 6.4"),
        (report(rules=Rules(min_words=1)), "differs", "another rules"),
        (report(documents=[]), "differs", "another number of documents"),
        (report(findings=[]), "differs", "words 0, not 1"),
        (report(known=Known(b"x")), "unknown", "compared with other texts"),
        (report(**duplicate()), "unknown", "compared with other texts"),
        (report(**duplicate("secret")), "differs", "secret 1, not 0"),
        (report(numbers={"words": 3}), "differs", "other findings, numbers"),
        (b"junk", "differs", "this is no report"),
        (b"", "differs", "this is no report"),
    ],
)
def test_a_report_is_compared_with_the_one_made_here(
    given: bytes, agreement: str, why: str
) -> None:
    said, told = compare_reports(given, report())
    assert said == agreement
    assert why in told

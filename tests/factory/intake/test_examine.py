"""Files go in; clean documents, findings and a report come out, through real children."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from factory.intake import Known, Rules, examine, read_report, review
from tests.factory.intake.texts import PARAGRAPHS

RULES = Rules(min_words=20, split_words=60)


def test_a_text_becomes_clean_documents_and_a_report_of_them(tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text("# Notes\r\n\r\n" + "\n\n\n".join(PARAGRAPHS))
    told: list[tuple[str, int, int]] = []
    examined = examine([file], RULES, Known(), tell=lambda *step: told.append(step))
    assert examined.outcome == "note"
    assert examined.findings == []
    assert len(examined.documents) > 3
    text = b"\n\n".join(document.text for document in examined.documents).decode()
    assert text == "# Notes\n\n" + "\n\n".join(PARAGRAPHS)
    for document in examined.documents:
        assert document.sha256 == hashlib.sha256(document.text).digest()
        assert document.words >= RULES.min_words
    assert examined.documents[0].title == "Notes"
    report = read_report(examined.report)
    assert report.files[0][0] == hashlib.sha256(file.read_bytes()).digest()
    assert report.num_documents == len(examined.documents)
    assert told == [("notes.md", 0, 1), ("checks", 1, 1)]


def test_whoever_reviews_the_same_documents_makes_the_same_report(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("\n\n".join(PARAGRAPHS))
    examined = examine([file], RULES, Known())
    documents = [document.text for document in examined.documents]
    first = review(documents, RULES, Known())
    second = review(documents, RULES, Known())
    assert first.report == second.report
    assert first.documents == examined.documents
    assert first.sketch == examined.sketch
    assert first.trace == examined.trace
    assert review(documents[:-1], RULES, Known()).report != first.report


def test_who_only_imports_intake_loads_no_parser() -> None:
    script = (
        "import sys, factory.intake; print([name for name in"
        " ('pypdf', 'detect_secrets', 'phonenumbers', 'py3langid', 'ftfy', 'numpy')"
        " if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"

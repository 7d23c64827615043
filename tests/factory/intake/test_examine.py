"""Files go in; clean documents, findings and a report come out, through real children."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from factory.intake import (
    Broken,
    Examined,
    Known,
    NotReady,
    Rules,
    TooHard,
    examine,
    examining,
    read_report,
    review,
    trace_documents,
)
from factory.intake.__main__ import as_json, as_text
from factory.intake.jobs import JudgeJob, gave_nothing
from factory.intake.judge import judge
from factory.intake.split import title_of
from factory.intake.traces import trace_texts
from tests.factory.intake.texts import PARAGRAPHS

RULES = Rules(min_words=20, split_words=60)


@dataclass(frozen=True)
class Given:
    """A file, what came of it, and what was told meanwhile."""

    file: Path
    examined: Examined
    told: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Honest notes, examined."""
    file = tmp_path_factory.mktemp("given") / "notes.md"
    file.write_text("# Notes\r\n\r\n" + "\n\n\n".join(PARAGRAPHS))
    told: list[tuple[str, int, int]] = []
    examined = examine([file], RULES, Known(), tell=lambda *step: told.append(step))
    return Given(file, examined, told)


def test_a_text_becomes_clean_documents_and_a_report_of_them(given: Given) -> None:
    examined = given.examined
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
    assert report.files[0][0] == hashlib.sha256(given.file.read_bytes()).digest()
    assert report.num_documents == len(examined.documents)
    assert given.told[:2] == [("notes.md", 0, 1), ("checks", 1, 1)]
    for name, done, total in given.told[2:]:
        assert name.startswith("checks: ")
        assert 0 <= done < total == 11


def test_each_step_of_the_checks_is_told() -> None:
    told: list[tuple[int, str]] = []
    job = JudgeJob([], RULES, Known(), [], None)
    judge([], job, lambda *step: told.append(step))
    assert [done for done, _ in told] == list(range(11))
    assert [name for _, name in told][::8] == ["words", "novelty"]


def test_the_trace_of_much_text_is_made_elsewhere_and_is_the_same(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [document.text for document in given.examined.documents]
    here = trace_documents(documents)
    assert here == trace_texts(documents)
    monkeypatch.setattr(examining, "TRACED_HERE_BYTES", 0)
    assert trace_documents(documents) == here


def test_whoever_reviews_the_same_documents_makes_the_same_report(given: Given) -> None:
    examined = given.examined
    documents = [document.text for document in examined.documents]
    known = Known(giver=b"farida", median_loss=2_500)
    losses = [9_000, *[2_500] * (len(documents) - 1)]
    reviewed = review(documents, RULES, known, losses=losses)
    assert reviewed.documents == examined.documents
    assert reviewed.sketch == examined.sketch
    assert [(one.code, one.document) for one in reviewed.findings] == [("loss", 0)]
    again = judged(documents, known, losses)
    assert again.report == reviewed.report
    assert judged(documents, known, [0]).report != reviewed.report
    assert judged(documents[:-1], known, losses[:-1]).report != reviewed.report


def judged(documents: list[bytes], known: Known, losses: list[int]) -> Examined:
    """What the checks' child does, in this process."""
    sizes = [len(document) for document in documents]
    titled = [(title_of(text.decode()), text.decode()) for text in documents]
    parsed = msgspec.structs.replace(
        gave_nothing("", ""),
        size=sum(sizes),
        format="clean",
        encoding="utf-8",
        documents=titled,
        told=[],
    )
    return judge([("", parsed)], JudgeJob([], RULES, known, losses, sizes))


def test_what_is_not_clean_or_too_much_is_refused_by_a_review() -> None:
    odd = judged([f"{PARAGRAPHS[0]}\u200b".encode(), PARAGRAPHS[1].encode()], Known(), [])
    assert [(one.code, one.document) for one in odd.findings] == [("not-clean", 0)]
    assert [document.text for document in odd.kept] == [PARAGRAPHS[1].encode()]
    with pytest.raises(Broken, match="not UTF-8"):
        review([b"\xff"], RULES, Known())
    with pytest.raises(TooHard, match="more than 16,777,216 bytes"):
        review([b"a" * (1 << 24), b"a"], RULES, Known())


def test_personal_data_is_masked_where_the_rules_say_so() -> None:
    text = f"{PARAGRAPHS[0]} Ask farida@example.org."
    rules = msgspec.structs.replace(RULES, mask=True)
    parsed = msgspec.structs.replace(gave_nothing("", ""), documents=[("", text)], told=[])
    examined = judge([("a.txt", parsed)], JudgeJob([], rules, Known(), [], None))
    assert examined.documents[0].text.endswith(b"Ask [e-mail].")
    assert [(one.code, one.outcome) for one in examined.findings] == [("masked", "note")]


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.intake.examining.PACKAGES", ("pypdf", "no-such-package"))
    with pytest.raises(NotReady, match=r"no-such-package.*pip install 'lorikeet\[intake\]'"):
        review([b"a"], RULES, Known())


def test_a_report_says_much_of_few_and_is_read_only_in_its_one_form() -> None:
    short = [f"{number} words" for number in range(1_000)]
    report = judged([text.encode() for text in short], Known(), []).report
    read = read_report(report)
    assert dict(read.totals) == {"too-short": 1_000}
    assert len(read.findings) == 32
    for spoilt in (report[:-1], report + b"\0", b"", report[:1] + b"\xd9\x0f" + report[2:]):
        with pytest.raises(Broken):
            read_report(spoilt)


def test_the_command_prints_what_was_found(given: Given) -> None:
    listed = as_json(given.examined)
    assert listed["outcome"] == "note"
    assert "documents would be taken" in as_text(given.examined)


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

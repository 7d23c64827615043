"""Each kind of file gives the text that a reader sees in it, whatever its name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from factory.intake import Rules
from factory.intake.errors import Refusal
from factory.intake.jobs import Parsed
from factory.intake.parse import parse_file
from tests.factory.intake import hostile
from tests.factory.intake.texts import PARAGRAPHS

RULES = Rules(min_words=5, split_words=10)


def parse(folder: Path, name: str, data: bytes, rules: Rules = RULES) -> Parsed:
    path = folder / name
    path.write_bytes(data)
    return parse_file(path, rules, isolated=True)


def texts(parsed: Parsed) -> list[str]:
    return [text for _, text in parsed.documents]


def test_a_word_file_gives_its_paragraphs_with_what_was_inserted_and_without_what_was_struck(
    tmp_path: Path,
) -> None:
    runs = (
        "<w:p><w:r><w:t>First, </w:t></w:r>"
        '<w:ins w:id="1"><w:r><w:t xml:space="preserve">the corrected line </w:t></w:r></w:ins>'
        '<w:del w:id="2"><w:r><w:delText>the wrong line </w:delText></w:r></w:del>'
        "<w:sdt><w:sdtContent><w:r><w:t>of &amp; for all</w:t><w:br/><w:t>of us</w:t></w:r>"
        "</w:sdtContent></w:sdt></w:p>"
    )
    table = f"<w:tbl><w:tr><w:tc>{hostile.paragraph('salt')}</w:tc></w:tr></w:tbl>"
    body = runs + table + "".join(map(hostile.paragraph, PARAGRAPHS[:2]))
    parsed = parse(tmp_path, "notes.txt", hostile.docx(body))
    assert parsed.format == "docx"
    text = "\n\n".join(texts(parsed))
    assert text.startswith("First, the corrected line of & for all\nof us\n\nsalt\n\n")
    assert text.endswith("\n\n".join(PARAGRAPHS[:2]))


def test_a_pdf_gives_its_pages_and_says_which_are_pictures(tmp_path: Path) -> None:
    lines = ["The ferry carries twelve people and one cart over the ri-", "ver at any hour of day."]
    pages = [hostile.page_of(lines), b"", hostile.page_of(["Salt was brought over the pass."])]
    parsed = parse(tmp_path, "scan", hostile.pdf(pages))
    assert parsed.format == "pdf"
    text = " ".join("\n\n".join(texts(parsed)).split())
    assert "over the river at any hour of day. Salt was brought over the pass." in text
    assert ("pictures", "1 of 3 pages") in parsed.told


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_each_row_of_a_csv_is_a_document_out_of_the_longest_column(
    tmp_path: Path, delimiter: str
) -> None:
    head = delimiter.join(["id", "question", "answer"])
    rows = [
        delimiter.join(["7", f"Of what {n}?", f'"{text}"']) for n, text in enumerate(PARAGRAPHS)
    ]
    data = "\n".join([head, *rows]).encode()
    parsed = parse(tmp_path, "rows.csv", data)
    assert texts(parsed) == PARAGRAPHS
    assert parsed.documents[3][0] == "Of what 3?"
    asked = parse(tmp_path, "rows.csv", data, Rules(column="question"))
    assert texts(asked)[3] == "Of what 3?"
    with pytest.raises(Refusal, match="no column 'text' with text; there are answer, id, question"):
        parse(tmp_path, "rows.csv", data, Rules(column="text"))


def test_each_line_of_jsonl_is_a_document(tmp_path: Path) -> None:
    rows = [json.dumps({"title": f"T{n}", "n": n, "text": t}) for n, t in enumerate(PARAGRAPHS)]
    parsed = parse(tmp_path, "rows.jsonl", ("\n\n".join(rows) + "\n").encode())
    assert texts(parsed) == PARAGRAPHS
    assert parsed.documents[2][0] == "T2"
    with pytest.raises(Refusal, match="line 2"):
        parse(tmp_path, "rows.jsonl", b'{"a": "b"}\n[1]')


def test_the_command_says_what_would_be_taken_and_its_status_says_so_too(tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text("\n\n".join(PARAGRAPHS) + "\n\nWrite to farida@example.org for more.")
    bad = tmp_path / "bad.docx"
    bad.write_bytes(hostile.docx("<w:p/>"))
    command = [sys.executable, "-m", "factory.intake", str(good), str(bad)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert told.returncode == 2, told.stderr
    assert "refused pictures-only: bad.docx: " in told.stdout
    assert "→ it holds pictures of text; run it through OCR first" in told.stdout
    assert "held    personal-data: document 2 (" in told.stdout
    assert "): 1: e-mail fa…\n" in told.stdout
    assert "2 of 2 documents would be taken" in told.stdout

"""Whatever is fed to intake, it answers soon, names what is wrong, and nobody grows or is left."""

from __future__ import annotations

import os
import random
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from factory.intake import Examined, Known, Rules, Stopped, examine
from factory.intake.errors import Refusal
from factory.intake.parse import MAX_FILE_BYTES, parse_file
from tests.factory.intake import hostile
from tests.factory.intake.processes import children_of
from tests.factory.intake.texts import PARAGRAPHS

RULES = Rules(min_words=20, split_words=60)
MAX_GROWTH_BYTES = 64 << 20
ANSWER_S = 45
NOISE = random.Random(5).randbytes(4096)
TEXT = "\n\n".join(PARAGRAPHS)
MIXED = TEXT.encode() + "\n\nDer Müller ließ die Säcke über Nacht stehen.\n".encode() * 30
MIXED += "\nLe garçon a mangé une crêpe à l'été, près du château.\n".encode("cp1252") * 30

FILES: dict[str, tuple[bytes, str]] = {
    "zip bomb.docx": (hostile.zip_bomb(600, 600 << 20), "bomb"),
    "lying zip.docx": (hostile.zip_bomb(600, 1000), "damaged"),
    "ratio.docx": (hostile.zip_bomb(40, 40 << 20), "bomb"),
    "many parts.docx": (hostile.docx("", {f"p{n}.bin": b"" for n in range(300)}), "bomb"),
    "nested.docx": (hostile.docx("", {"a.bin": hostile.docx("")}), "nested"),
    "laughs.docx": (hostile.docx("<w:p>&i;</w:p>", head=hostile.LAUGHS), "doctype"),
    "external.docx": (hostile.docx("<w:p>&x;</w:p>", head=hostile.EXTERNAL), "doctype"),
    "styles.docx": (
        hostile.docx("", {"word/styles.xml": f"{hostile.EXTERNAL}<a/>".encode("utf-16")}),
        "doctype",
    ),
    "deep.docx": (hostile.docx("<w:p>" * 5_000), "bomb"),
    "cut.docx": (hostile.docx(hostile.paragraph(TEXT))[:-80], "damaged"),
    "drawing.docx": (hostile.docx("<w:p/>"), "pictures-only"),
    "other.zip": (hostile.docx("").replace(b"word/document.xml", b"word/documemt.xml"), "format"),
    "bomb.pdf": (hostile.pdf_bomb(600), "bomb"),
    "blank.pdf": (hostile.pdf([b""]), "pictures-only"),
    "cut.pdf": (hostile.pdf([hostile.page_of(PARAGRAPHS)])[:200], "damaged"),
    "noise.pdf": (b"%PDF-1.7\n" + NOISE, "damaged"),
    "noise.txt": (NOISE, "format"),
    "loop.pdf": (hostile.pdf([b""]).replace(b"/Kids[4 0 R]", b"/Kids[2 0 R]"), "damaged"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n" + NOISE, "format"),
    "old.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE, "format"),
    "page.md": (b"<!doctype html><p>" + TEXT.encode(), "format"),
    "guess.txt": (bytes(range(128, 256)) * 40, "encoding"),
    "hidden.txt": (("\u200b" * 40 + TEXT).encode(), "hidden"),
    "tags.txt": (("".join(chr(0xE0000 + c) for c in range(32, 96)) + TEXT).encode(), "hidden"),
    "spaces.txt": (b" \n" * 1000, "empty"),
    "broken.jsonl": (b'{"a": ' + b"[" * 100_000, "rows"),
    "empty.txt": (b"", "empty"),
}


IN_CHILDREN = ("zip bomb.docx", "laughs.docx", "bomb.pdf")
"""The others are read here: a process for each would take a quarter of a minute."""


@dataclass(frozen=True)
class Together:
    """What was said of several files at once, how much this process grew, how long it took."""

    examined: Examined
    growth_bytes: int
    took_s: float


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Hostile files given together, with one honest file in their midst."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in IN_CHILDREN:
        (folder / name).write_bytes(FILES[name][0])
    with (folder / "one line.txt").open("wb") as file:
        file.truncate(1 << 30)  # sparse: a line of 1 GB
    (folder / "as long as may be.txt").write_bytes(
        b"many words in a line\n" * (MAX_FILE_BYTES // 21)
    )
    (folder / "honest.txt").write_text(TEXT)
    files = sorted(folder.iterdir())
    before = resident_bytes()
    start = time.monotonic()
    examined = examine(files, RULES, Known())
    return Together(examined, resident_bytes() - before, time.monotonic() - start)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", [*IN_CHILDREN, "one line.txt", "as long as may be.txt"])
def test_a_child_refuses_what_would_cost_a_daemon_its_memory(together: Together, name: str) -> None:
    told = [one for one in together.examined.findings if one.detail.startswith(f"{name}: ")]
    expected = FILES[name][1] if name in FILES else "too-large"
    assert [(one.code, one.outcome) for one in told] == [(expected, "refuse")]
    assert told[0].mend


def test_the_daemon_stays_small_and_the_honest_file_among_them_is_taken(together: Together) -> None:
    assert together.growth_bytes < MAX_GROWTH_BYTES
    texts = [document.text for document in together.examined.kept]
    assert b"\n\n".join(texts) == TEXT.encode()


@pytest.mark.parametrize("name", [name for name in FILES if name not in IN_CHILDREN])
def test_a_hostile_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name][0])
    with pytest.raises(Refusal) as refused:
        parse_file(path, RULES, isolated=True)
    assert refused.value.code == FILES[name][1]


def test_a_line_of_spaces_takes_no_time(tmp_path: Path) -> None:
    path = tmp_path / "spaces.txt"
    path.write_bytes(b" " * (4 << 20) + b"x")
    assert [text for _, text in parse_file(path, RULES, isolated=True).documents] == ["x"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for name, code in (("pipe.txt", "not-a-file"), (".", "not-a-file"), ("none", "unreadable")):
        with pytest.raises(Refusal) as refused:
            parse_file(tmp_path / name, RULES, isolated=True)
        assert refused.value.code == code


def test_what_is_not_utf8_is_read_with_a_note_of_how_sure_that_is(tmp_path: Path) -> None:
    (tmp_path / "mixed.txt").write_bytes(MIXED)
    parsed = parse_file(tmp_path / "mixed.txt", RULES, isolated=True)
    together = "\n\n".join(text for _, text in parsed.documents)
    assert "Säcke über Nacht" in together
    assert "garçon a mangé une crêpe" in together
    told = dict(parsed.told)
    assert "confidence" in told["mixed-encodings"]
    (tmp_path / "wide.txt").write_bytes(TEXT.encode("utf-16"))
    parsed = parse_file(tmp_path / "wide.txt", RULES, isolated=True)
    assert "\n\n".join(text for _, text in parsed.documents) == TEXT
    assert parsed.encoding == "utf-16"


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """A file over which the child works until its limit: a page with a million operators."""
    path = tmp_path / "busy.pdf"
    content = zlib.compress(b"BT /F1 12 Tf (a) Tj ET " * 400_000)
    path.write_bytes(hostile.pdf([content] * 40, packed=True))
    return path


def test_who_stops_it_waits_for_nothing_and_nobody_is_left(busy: Path) -> None:
    stop = threading.Event()
    thread_error: list[BaseException] = []

    def run() -> None:
        try:
            examine([busy], RULES, Known(), stop=stop)
        except Stopped as error:
            thread_error.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + ANSWER_S
    while not children_of(os.getpid()) and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join(ANSWER_S)
    assert isinstance(thread_error[0], Stopped)
    assert children_of(os.getpid()) == []

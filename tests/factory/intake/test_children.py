"""A child keeps its limits, and ends with whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from factory.intake import Broken, Known, Rules, examining
from factory.intake.child import PARSING, checking, child_environment, run_child
from factory.intake.jobs import JudgeJob, Parsed, ParseJob
from tests.factory.intake import hostile
from tests.factory.intake.processes import children_of
from tests.processes import ending

WAIT_S = 60


def job(folder: Path, data: bytes) -> Path:
    """A folder in which a child finds a file to parse."""
    (folder / "file").write_bytes(data)
    asked = msgspec.msgpack.encode(ParseJob(str(folder / "file"), Rules()))
    (folder / "job.msgpack").write_bytes(asked)
    return folder


def endless() -> bytes:
    """A PDF over which a parser works for longer than any limit."""
    content = zlib.compress(b"BT /F1 12 Tf (a) Tj ET " * 400_000)
    return hostile.pdf([content] * 40, packed=True)


def test_a_child_that_goes_on_is_ended(tmp_path: Path) -> None:
    limits = replace(PARSING, cpu_s=1)
    assert run_child("parse", job(tmp_path, endless()), limits, None) == "time"
    assert not (tmp_path / "result.msgpack").exists()


def test_after_a_file_that_took_all_the_time_no_other_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "PARSING", replace(PARSING, wall_s=0.5))
    (tmp_path / "a.pdf").write_bytes(endless())
    (tmp_path / "b.txt").write_text("an honest text")
    told = examining.examine(sorted(tmp_path.iterdir()), Rules(), Known())
    assert [(one.code, one.detail[:5]) for one in told.findings[:2]] == [
        ("time", "a.pdf"),
        ("skipped", "b.txt"),
    ]
    assert told.outcome == "refuse"


def test_a_child_that_wants_more_memory_than_it_has_ends_alone(tmp_path: Path) -> None:
    small = replace(PARSING, memory_bytes=64 << 20)
    folder = job(tmp_path, b"many words " * (1 << 20))
    assert run_child("parse", folder, small, None) in ("memory", "crashed")


def test_a_child_writes_no_more_than_it_may(tmp_path: Path) -> None:
    folder = job(tmp_path, b"many words\n\n" * 10_000)
    assert run_child("parse", folder, replace(PARSING, output_bytes=10_000), None) == "crashed"
    assert run_child("parse", folder, PARSING, None) is None
    parsed = msgspec.msgpack.decode((folder / "result.msgpack").read_bytes(), type=Parsed)
    assert parsed.format == "txt"


def test_a_full_disk_is_told_and_blames_no_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = job(tmp_path, b"many words\n\n" * 10)
    (folder / "result.msgpack.part").symlink_to("/dev/full")
    assert run_child("parse", folder, PARSING, None) == "room"
    monkeypatch.setattr(examining, "run_child", lambda *asked: "room")
    with pytest.raises(Broken, match=r"cannot write to .* \(its disk is full\); make room there"):
        examining.examine([folder / "file"], Rules(), Known())
    with pytest.raises(Broken, match="make room there"):
        examining.review([b"many words"], Rules(), Known())


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(Broken, match=r"No such file or directory.*make room there"):
        examining.review([b"many words"], Rules(), Known())


def test_files_beyond_what_may_be_given_are_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "AROUND_TEXT_BYTES", 0)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{name} text of a few words\n" * 40)
    rules = Rules(max_bytes=1_500)
    told = examining.examine(sorted(tmp_path.iterdir()), rules, Known())
    assert [(one.code, one.detail[:5]) for one in told.findings] == [
        ("skipped", "c.txt"),
        ("too-much-text", "1,758"),
    ]
    assert told.outcome == "refuse"


def test_a_child_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    document = ("the ferry carries twelve people and a cart over the river. " * 2_000).encode()
    documents = [document + str(number).encode() for number in range(8)]
    (tmp_path / "texts").write_bytes(b"".join(documents))
    review = JudgeJob([], Rules(), Known(), [], list(map(len, documents)))
    (tmp_path / "job.msgpack").write_bytes(msgspec.msgpack.encode(review))

    def look() -> None:
        examining._tell_progress(lambda *step: told.append(step), tmp_path / "progress")

    assert run_child("check", tmp_path, checking(1 << 20), None, look) is None
    assert told
    assert all(name.startswith("checks: ") and done < total for name, done, total in told)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_the_checks_of_more_text_may_take_longer_and_a_little_text_is_answered_soon() -> None:
    assert checking(4 << 20).cpu_s < 45
    assert checking(16 << 20).cpu_s > checking(1 << 20).cpu_s


def test_a_child_gets_nothing_of_the_environment_but_the_way_to_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORIKEET_SECRET", "hush")
    assert "LORIKEET_SECRET" not in child_environment()


def test_a_killed_daemon_leaves_no_child(tmp_path: Path) -> None:
    file = tmp_path / "endless.pdf"
    file.write_bytes(endless())
    script = (
        "import sys; from pathlib import Path; from factory.intake import *;"
        "examine([Path(sys.argv[1])], Rules(), Known())"
    )
    deadline = time.monotonic() + WAIT_S
    with ending(subprocess.Popen([sys.executable, "-c", script, str(file)])) as daemon:
        while not (found := children_of(daemon.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        while not is_confined(found[0]) and time.monotonic() < deadline:
            time.sleep(0.02)
    while is_there(found[0]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_there(found[0])


def is_confined(pid: int) -> bool:
    """Whether it has taken its limits upon itself."""
    limits = Path(f"/proc/{pid}/limits")
    return not limits.exists() or str(PARSING.memory_bytes) in limits.read_text()


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"

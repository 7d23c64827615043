from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo.factory.__main__ import PROMISED_S
from demo.factory.line import NUM_STEPS
from demo.factory.notes import MOST_WORDS, PEOPLE, prose_of, write_notes

ROOT = Path(__file__).resolve().parents[2]


def test_everybody_has_notes_of_their_own(tmp_path: Path) -> None:
    assert len({person.name for person in PEOPLE}) == 12
    pages = [page for person in PEOPLE for page in person.pages]
    assert len(set(pages)) == len(pages)
    for person in PEOPLE:
        words = len(write_notes(person, tmp_path).read_text().split())
        assert 400 < words < MOST_WORDS + 400, person.name


def test_notes_are_sentences_without_tables_code_and_marks() -> None:
    page = (
        "# Head\n\nA node [answers](x.md) whoever asks it, with `many` words.\n\n| a | b |\n\n"
        "    code that is no sentence, however many words it has here.\n\n"
        "* One of a list, which is long enough to be kept.\n* short.\n"
    )
    assert prose_of(page) == [
        "A node answers whoever asks it, with many words.",
        "One of a list, which is long enough to be kept.",
    ]


@pytest.mark.slow
@pytest.mark.timeout(2 * PROMISED_S)
@pytest.mark.xdist_group("network")
def test_the_line_is_played_from_an_empty_home_to_a_paid_answer(tmp_path: Path) -> None:
    file = tmp_path / "factory.json"
    done = subprocess.run(
        [sys.executable, "-m", "demo.factory", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(file.read_text())
    assert done.returncode == 0, done.stdout
    assert told["ok"]
    assert told["seconds"] < PROMISED_S
    assert len(told["steps"]) == NUM_STEPS
    assert told["steps"][-2]["amount"] > 0
    assert told["steps"][-1]["paid_people"] >= 2

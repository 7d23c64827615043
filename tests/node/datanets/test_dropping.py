"""Files without a path here: kept in pieces, within bounds, until they are given."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest

from node.api.datanets import DropSaid
from node.datanets.dropping import KEPT_S, MAX_FILE_BYTES, MAX_FILES, Drops
from node.errors import BadRequest

from .people import write_text
from .test_face import serving, told

DROP = "0123456789abcdef"


def test_pieces_become_a_file_which_is_forgotten_once_it_was_given(tmp_path: Path) -> None:
    drops = Drops(tmp_path)
    drops.add(DropSaid(DROP, "salt.txt"), b"Salt ", 1.0)
    kept = drops.add(DropSaid(DROP, "salt.txt", 5), b"keeps.", 1.0)
    assert Path(kept.path).read_bytes() == b"Salt keeps."
    outside = tmp_path.parent / "mine.txt"
    outside.write_text("mine")
    drops.forget((kept.path, str(outside)))
    assert not Path(kept.path).exists()
    assert outside.exists()


@pytest.mark.parametrize(
    ("said", "size", "words"),
    [
        (DropSaid("../../etc", "a.txt"), 1, "16 hex digits"),
        (DropSaid(DROP, "../a.txt"), 1, "no name"),
        (DropSaid(DROP, ".hidden"), 1, "no name"),
        (DropSaid(DROP, "x" * 200), 1, "no name"),
        (DropSaid(DROP, ""), 1, "no name"),
        (DropSaid(DROP, "a.txt", 7), 1, "a.txt: 0 bytes of it are here"),
        (DropSaid(DROP, "a.txt"), MAX_FILE_BYTES + 1, "a.txt has more than"),
    ],
)
def test_what_is_no_piece_of_a_file_is_refused_by_name(
    tmp_path: Path, said: DropSaid, size: int, words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        Drops(tmp_path / "dropped").add(said, bytes(size), 1.0)
    assert not (tmp_path / "dropped").exists()


def test_files_are_bounded_and_those_that_nobody_gave_leave_within_the_hour(tmp_path: Path) -> None:
    drops = Drops(tmp_path)
    now = 1e9
    for number in range(MAX_FILES):
        kept = drops.add(DropSaid(f"{number:016x}", "a.txt"), b"a", now)
        os.utime(kept.path, (now, now))
        os.utime(Path(kept.path).parent, (now, now))
    with pytest.raises(BadRequest, match=f"at most {MAX_FILES} files"):
        drops.add(DropSaid(DROP, "one-more.txt"), b"a", now + KEPT_S)
    drops.add(DropSaid(DROP, "one-more.txt"), b"a", now + KEPT_S + 1)
    assert [one.name for one in tmp_path.iterdir()] == [DROP]


async def test_a_dropped_file_is_given_and_a_bad_one_named_with_its_line(tmp_path: Path) -> None:
    good = write_text(tmp_path / "notes.txt", 3, paragraphs=6).read_bytes()
    bad = b'{"text": "Salt keeps."}\n{"text": \n'
    async with serving(tmp_path) as (_, url):
        await told(tmp_path, "create", "our kitchen", "--language", "en", "--min-words", "10")
        async with httpx.AsyncClient(
            base_url=f"{url}/lorikeet/v1", trust_env=False, timeout=60
        ) as client:

            async def drop(name: str, at: int, data: bytes) -> str:
                said = {"drop": DROP, "name": name, "at": str(at)}
                done = await client.post("/dropped", params=said, content=data)
                return str(done.json()["path"])

            files = [await drop("rows.jsonl", 0, bad), await drop("notes.txt", 0, good[:100])]
            assert await drop("notes.txt", 100, good[100:]) == files[1]
            said = {"files": files, "agreed": True}
            answer = await client.post("/datanets/our kitchen/give", json=said)
    given = json.loads(answer.text.split("data: ")[-1])["result"]
    assert given["num_kept"] > 0
    assert any(one["detail"].startswith("rows.jsonl: line 2") for one in given["findings"])
    assert not list((tmp_path / "home" / "dropped").iterdir())

"""What a creator and somebody who searches type, and what the daemon is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.api.adapters import PushTold, SearchRequest
from node.cli.client import CliError
from node.cli.publish import parse_size
from node.errors import AdapterError
from tests.node.twin import LAW, Twin, serve_twin

from .test_commands import lorikeet, point_home_at


async def test_a_push_tells_what_the_creator_says_of_it(tmp_path: Path) -> None:
    twin = Twin()
    (tmp_path / "law").mkdir()
    said = ("--language", "en", "--language", "pt-BR", "--licence", "MIT", "--describe", "Judges.")
    async with serve_twin(twin) as url:
        point_home_at(tmp_path, url)
        done = await lorikeet(tmp_path, "push", str(tmp_path / "law"), *said, "--json")
    assert json.loads(done.stdout)["cid"] == LAW.cid
    assert twin.told == PushTold("Judges.", ("en", "pt-BR"), "MIT")


async def test_a_search_asks_for_words_and_conditions_and_shows_what_it_is(tmp_path: Path) -> None:
    twin = Twin()
    wanted = ("--language", "en", "--licence", "MIT", "--base", "b179", "--max-size", "20M")
    async with serve_twin(twin) as url:
        point_home_at(tmp_path, url)
        found = await lorikeet(tmp_path, "search", "court", "law", *wanted)
        as_json = await lorikeet(tmp_path, "search", "--json")
        wrong = await lorikeet(tmp_path, "search", "--max-size", "much")
    assert "law@1" in found.stdout.decode()
    assert LAW.description in found.stdout.decode()
    assert json.loads(as_json.stdout)[0]["languages"] == ["en"]
    assert twin.searched == [
        SearchRequest(("court", "law"), "en", "MIT", "b179", max_size_bytes=20_000_000),
        SearchRequest(),
    ]
    assert wrong.returncode == 2
    assert "20M" in wrong.stderr.decode()


async def test_versions_are_listed_rolled_back_and_withdrawn(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        listed = await lorikeet(tmp_path, "versions", "law")
        unknown = await lorikeet(tmp_path, "versions", "lax")
        rolled = await lorikeet(tmp_path, "rollback", "law@1", "--json")
        gone = await lorikeet(tmp_path, "retract", "law@2")
    assert "law@1" in listed.stdout.decode()
    assert unknown.returncode == 1
    assert [one["name"] for one in json.loads(rolled.stdout)] == ["law@1"]
    assert "withdrawn" in gone.stdout.decode()


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("", None), ("800", 800), ("800K", 800_000), ("1.5MB", 1_500_000), ("1g", 1_000_000_000)],
)
def test_a_size_has_a_unit(text: str, size_bytes: int | None) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["much", "M", "1T", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="20M"):
        parse_size(text)


async def test_an_import_lists_what_there_is_and_what_fits(tmp_path: Path) -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        point_home_at(tmp_path, url)
        listed = await lorikeet(tmp_path, "import", str(tmp_path))
        as_json = await lorikeet(tmp_path, "import", str(tmp_path), "--json")
        dry = await lorikeet(tmp_path, "import", str(tmp_path), "--all", "--dry-run")
    assert [line.split("\t")[0] for line in listed.stdout.decode().splitlines()[1:]] == [
        "org/law",
        "org/odd",
        "org/big",
        "org/base",
    ]
    assert "1 fit" in listed.stderr.decode()
    assert [one["state"] for one in json.loads(as_json.stdout)] == [
        "fits",
        "doubtful",
        "refused",
        "base",
    ]
    assert [line.split("\t")[0] for line in dry.stdout.decode().splitlines()[1:]] == ["org/law"]
    assert "nothing was" in dry.stderr.decode()
    assert twin.imported == []


async def test_an_import_offers_what_is_named_or_everything_that_fits(tmp_path: Path) -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        point_home_at(tmp_path, url)
        every = await lorikeet(tmp_path, "import", str(tmp_path), "--all", "--json")
        doubtful = await lorikeet(tmp_path, "import", str(tmp_path), "org/odd", "--as", "strange")
        refused = await lorikeet(tmp_path, "import", str(tmp_path), "org/big")
        unknown = await lorikeet(tmp_path, "import", str(tmp_path), "org/none")
        both = await lorikeet(tmp_path, "import", str(tmp_path), "law", "odd", "--as", "one")
        nowhere = await lorikeet(tmp_path, "import", str(tmp_path / "none"))
    assert [one["adapter"]["cid"] for one in json.loads(every.stdout)] == [LAW.cid]
    assert twin.imported == [Path("/cache/law"), Path("/cache/odd")]
    assert twin.pushed == []
    assert twin.told is not None
    assert (twin.told.name, twin.told.source) == ("strange", "org/law@abc")
    assert "law@1" in doubtful.stdout.decode()
    codes = [every, doubtful, refused, unknown, both, nowhere]
    assert [one.returncode for one in codes] == [0, 0, 1, 2, 2, 2]
    assert "wide" in refused.stderr.decode()


async def test_an_import_that_fails_says_which_and_why(tmp_path: Path) -> None:
    async with serve_twin(Twin(error=AdapterError("its name is taken"))) as url:
        point_home_at(tmp_path, url)
        plain = await lorikeet(tmp_path, "import", str(tmp_path), "--all")
        as_json = await lorikeet(tmp_path, "import", str(tmp_path), "law", "--json")
    assert (plain.returncode, as_json.returncode) == (1, 1)
    assert "org/law: its name is taken" in plain.stderr.decode()
    assert json.loads(as_json.stdout)[0]["error"] == "its name is taken"


async def test_an_import_needs_a_daemon(tmp_path: Path) -> None:
    assert (await lorikeet(tmp_path, "import", str(tmp_path))).returncode == 3

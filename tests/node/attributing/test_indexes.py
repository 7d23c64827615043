"""Indexes are built once, beside the daemon; what was published badly has none, which is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from node.attributing.attributor import Attributor
from node.attributing.indexes import RETRY_S, Indexes
from node.catalogue.texts import map_tokens
from node.errors import NodeError, NoProvider
from node.telemetry import Telemetry
from p2p.cid import Cid
from proofs.attribution.background import write_background
from proofs.attribution.tokens import Contribution, write_tokens
from proofs.errors import TokensError
from proofs.manifest import Contributor, File, Manifest, build_manifest, parse_manifest
from proofs.origin import Attribution, Origin
from tests.node.networks import until
from tests.proofs.scene import address, signer

TOKENIZER = bytes([2]) * 32
ANSWER = list(range(100, 130))
TOKENS = write_tokens(
    TOKENIZER, 2, [Contribution(0, [ANSWER[:16]]), Contribution(1, [ANSWER[14:]])]
)
BACKGROUND = write_background(TOKENIZER, [list(range(300, 340))])


def manifest(tokens: bytes, background: bytes, people: int = 2) -> Manifest:
    files = {"attribution.tokens": tokens, "background.tokens": background}
    return parse_manifest(
        build_manifest(
            signer("creator"),
            name="law",
            adapter_version="1",
            base=bytes(32),
            tokenizer_hash=TOKENIZER,
            template_hash=bytes(32),
            licence="",
            source="",
            created_at=1,
            contributors=[Contributor(address(str(one)), "", "", "", 1) for one in range(people)],
            files=[
                File(name, len(data), [(Cid.of(data).digest, len(data))])
                for name, data in files.items()
            ],
            origin=Origin(
                attribution=Attribution(
                    "ladder-1",
                    Cid.of(background).digest,
                    4,
                    8,
                    r_bps=0,
                    lds_bps=0,
                    answers=0,
                    r_interval=(0, 0),
                    lds_interval=(0, 0),
                )
            ),
        )
    )


@dataclass
class Shelf:
    """A source whose files lie in a folder, or nowhere."""

    folder: Path | None

    def find_files(self, cid: Cid, manifest: Manifest) -> Path | None:
        return self.folder

    async def fetch_files(self, cid: Cid, files: list[File], folder: Path) -> None:
        raise NoProvider("nobody has it")


@dataclass
class Scene:
    indexes: Indexes
    telemetry: Telemetry
    manifest: Manifest
    cid: Cid = field(default_factory=lambda: Cid(b"\x07" * 32))
    now: float = 0.0

    async def counted(self, name: str, number: int = 1) -> None:
        await until(lambda: self.telemetry.counters.get(name, 0) >= number)


@asynccontextmanager
async def scene(
    home: Path,
    tokens: bytes = TOKENS,
    background: bytes = BACKGROUND,
    *,
    told: Manifest | None = None,
    max_tokens: int = 1_000,
    is_held: bool = True,
) -> AsyncIterator[Scene]:
    files = home / "files"
    files.mkdir(exist_ok=True)
    (files / "attribution.tokens").write_bytes(tokens)
    (files / "background.tokens").write_bytes(background)
    telemetry = Telemetry(home / "log")
    made = Scene(None, telemetry, told or manifest(tokens, background))  # type: ignore[arg-type]
    made.indexes = Indexes(
        home / "attribution",
        Shelf(files if is_held else None),
        telemetry,
        max_tokens,
        clock=lambda: made.now,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.indexes.run)
        made.indexes.want(made.cid, made.manifest)
        yield made
        nursery.cancel_scope.cancel()
    telemetry.close()


async def test_an_index_is_built_once_and_found_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as first:
        assert first.indexes.find(first.cid) is None
        await first.counted("indexes_opened")
        texts = first.indexes.find(first.cid)
        assert texts is not None
        assert texts.draw([1], ANSWER, 32) != ()
        attributor = Attributor(first.indexes, lambda cid: first.manifest)
        assert attributor.can_draw(first.cid.digest)
        assert await attributor.draw(first.cid.digest, [1], ANSWER) == (
            texts.draw([1], ANSWER, 32),
        )
        assert not attributor.can_draw(bytes(32))  # the bare base
    built = (tmp_path / "attribution" / str(first.cid) / "attribution.index").stat().st_mtime_ns
    async with scene(tmp_path) as again:
        await again.counted("indexes_opened")
    path = tmp_path / "attribution" / str(first.cid) / "attribution.index"
    assert path.stat().st_mtime_ns == built


@pytest.mark.parametrize(
    ("tokens", "background", "people", "why"),
    [
        (b"no tokens at all", BACKGROUND, 2, "size"),
        (BACKGROUND, BACKGROUND, 2, "contributors"),
        (TOKENS, TOKENS, 2, "contributors"),
    ],
)
async def test_a_text_that_is_none_has_no_index_and_its_fault_is_told(
    tmp_path: Path, tokens: bytes, background: bytes, people: int, why: str
) -> None:
    told = manifest(tokens, background, people)
    async with scene(tmp_path, tokens, background, told=told) as made:
        await made.counted("indexes_failed")
        assert made.indexes.find(made.cid) is None
        # It is not tried again at once.
        made.indexes.want(made.cid, made.manifest)
        await trio.testing.wait_all_tasks_blocked()
        assert made.telemetry.counters["indexes_failed"] == 1
    [line] = [one for one in (tmp_path / "log").read_text().splitlines() if "no index" in one]
    assert why in line
    assert "standing weights" in line


async def test_what_its_manifest_does_not_mean_is_not_opened(tmp_path: Path) -> None:
    three = manifest(TOKENS, BACKGROUND, people=3)
    async with scene(tmp_path, told=three) as made:
        await made.counted("indexes_failed")
        assert made.indexes.find(made.cid) is None
    assert "the manifest 3" in (tmp_path / "log").read_text()


async def test_a_listing_that_cannot_be_read_is_told_and_costs_no_index(tmp_path: Path) -> None:
    told = manifest(TOKENS, BACKGROUND)
    listing = File("contributors.msgpack", 3, [(Cid.of(b"odd").digest, 3)])
    told = msgspec.structs.replace(told, files=[*told.files, listing])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "contributors.msgpack").write_bytes(b"odd")
    async with scene(tmp_path, told=told) as made:
        await made.counted("indexes_opened")
        texts = made.indexes.find(made.cid)
        assert texts is not None
        assert texts.listed == ()
        assert "contributors.msgpack" in texts.unlisted
    assert "where they were given is not told" in (tmp_path / "log").read_text()


async def test_what_nobody_provides_is_tried_again_a_while_later(tmp_path: Path) -> None:
    async with scene(tmp_path, is_held=False) as made:
        await made.counted("indexes_failed")
        made.now += RETRY_S + 1
        made.indexes.want(made.cid, made.manifest)
        await made.counted("indexes_failed", 2)


async def test_a_text_above_the_bound_is_never_asked_for(tmp_path: Path) -> None:
    large = manifest(TOKENS, BACKGROUND)
    [tokens, background] = large.files
    huge = msgspec.structs.replace(tokens, size=(8 << 20) + 4 * 1_000 + 1)
    large = msgspec.structs.replace(large, files=[huge, background])
    async with scene(tmp_path, told=large) as made:
        await trio.testing.wait_all_tasks_blocked()
        assert not made.telemetry.counters.get("indexes_failed")
    async with scene(tmp_path, max_tokens=0) as none:
        await trio.testing.wait_all_tasks_blocked()
        assert none.indexes.find(none.cid) is None


def test_a_disk_that_takes_nothing_is_told_by_the_child_and_leaves_no_litter(
    tmp_path: Path,
) -> None:
    (tmp_path / "text").write_bytes(TOKENS)
    (tmp_path / "common").write_bytes(BACKGROUND)
    caches = tmp_path / "caches"
    caches.mkdir()
    paths = [tmp_path / "text", caches / "index", tmp_path / "common", caches / "common"]
    build = [sys.executable, "-m", "node.attributing", "1000", *map(str, paths)]
    full = subprocess.run(
        ["bash", "-c", 'ulimit -f 0; exec "$@"', "build", *build],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (full.returncode, full.stderr.strip()) == (1, "[Errno 27] File too large")
    assert list(caches.iterdir()) == []


def test_an_empty_file_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"")
    with pytest.raises(TokensError, match="text is empty"):
        map_tokens(tmp_path / "text", 1_000)


async def test_an_answer_without_an_open_index_is_not_measured(tmp_path: Path) -> None:
    async with scene(tmp_path, is_held=False) as made:
        attributor = Attributor(made.indexes, lambda cid: made.manifest)
        assert not attributor.can_draw(b"\x01" * 32)
        with pytest.raises(NodeError, match="not open here"):
            await attributor.draw(b"\x01" * 32, [1], ANSWER)

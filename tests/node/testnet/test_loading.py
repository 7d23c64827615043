"""A load on a network: asked as planned, and told as it was."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import EngineBusy
from node.http.ollama.shape import line_of
from node.running import RUNNING_FILE, Running
from node.testnet import asking_much
from node.testnet.asking import Asking, NodeClient
from node.testnet.asking_much import TOO_MANY, put_load
from node.testnet.drawing import DOTS_OF, Picture
from node.testnet.loading import (
    HEADINGS,
    Outcome,
    Planned,
    as_html,
    as_png,
    cells,
    make_report,
    plan_load,
)
from node.testnet.network import NETWORK_FILE, Written
from node.testnet.plan import GATEWAY
from tests.node import twin as twin_module
from tests.node.faces import command
from tests.node.twin import PEER, Twin, serve_twin

OUTCOME = st.builds(
    Outcome,
    st.sampled_from(["law", "verse"]),
    st.none() | st.floats(0, 1e6),
    whole_ms=st.floats(0, 1e6),
    tokens=st.integers(0, 999),
    error=st.sampled_from(["", "", "busy", "<script>"]),
)


def test_questions_come_at_the_rate_and_the_first_models_more_often() -> None:
    models = [f"model-{number}" for number in range(20)]
    planned = [*plan_load(models, rate=20.0, zipf=1.0, seconds=500.0, seed=7)]
    assert 9_500 < len(planned) < 10_500
    times = [one.at_s for one in planned]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 500
    counted = Counter(one.model for one in planned)
    assert counted["model-0"] / counted["model-9"] == pytest.approx(10, rel=0.4)
    assert planned == [*plan_load(models, rate=20.0, zipf=1.0, seconds=500.0, seed=7)]
    alike = Counter(
        one.model for one in plan_load(models, rate=20.0, zipf=0.0, seconds=500.0, seed=7)
    )
    assert max(alike.values()) < 2 * min(alike.values())


@given(st.lists(OUTCOME, max_size=40))
def test_a_report_adds_up_and_no_word_of_a_node_is_markup(outcomes: list[Outcome]) -> None:
    report = make_report(outcomes, rate=1.0, zipf=1.0, lasted_s=2.0, late=0)
    assert sum(row.asked for row in report.rows) == report.total.asked == len(outcomes)
    assert report.total.failed == sum(report.errors.values())
    whole = [one.whole_ms for one in outcomes if not one.error]
    if report.total.whole_ms is not None:
        assert {*report.total.whole_ms} <= {*whole}
        assert report.total.whole_ms[2] == max(whole)  # fewer than a hundred
    page = as_html(report)
    assert "<script>" not in page
    assert len(re.findall("<tr>", page)) == 2 + len(report.rows)
    assert all(len(cells(row)) == len(HEADINGS) for row in (report.total, *report.rows))


@given(st.lists(OUTCOME, max_size=10))
@settings(max_examples=10)
def test_a_report_is_a_picture_as_well(outcomes: list[Outcome]) -> None:
    report = make_report(outcomes, rate=1.0, zipf=1.0, lasted_s=2.0, late=0)
    width, height, rows = read_png(as_png(report))
    assert len(rows) == height
    assert {len(row) for row in rows} == {3 * width}
    assert any(set(row) != {255} for row in rows), "something is drawn"


def test_a_picture_has_what_is_drawn_in_it_and_no_more() -> None:
    picture = Picture(20, 20)
    picture.fill(-5, 2, 10, 3, colour=(1, 2, 3))
    picture.fill(18, 18, 50, 50, colour=(4, 5, 6))
    picture.write(8, 6, "I", (9, 9, 9))
    width, height, rows = read_png(picture.as_png())
    assert (width, height) == (20, 20)
    assert rows[2] == bytes((1, 2, 3)) * 5 + b"\xff" * 45
    assert rows[1] == rows[5] == b"\xff" * 60
    assert rows[19][-6:] == bytes((4, 5, 6)) * 2
    shown = [
        "".join(".#"[picture.colour_at(x, y) == (9, 9, 9)] for x in (8, 10, 12, 14, 16))
        for y in range(6, 20, 2)
    ]
    assert tuple(shown) == DOTS_OF["I"]


def test_every_letter_is_of_one_size_and_another_than_the_rest() -> None:
    assert set("ABCXYZ0189.%@-_/") < set(DOTS_OF)
    assert len(set(DOTS_OF.values())) == len(DOTS_OF)
    for rows in DOTS_OF.values():
        assert [len(row) for row in rows] == [5] * 7


def read_png(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of pixels of a PNG as we write it, each part's checksum checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts = {}
    at = 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        parts[kind] = data[at + 8 : at + 8 + size]
        check = data[at + 8 + size : at + 12 + size]
        assert zlib.crc32(kind + parts[kind]).to_bytes(4, "big") == check
        at += 12 + size
    assert [*parts] == [b"IHDR", b"IDAT", b"IEND"]
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    assert parts[b"IHDR"][8:] == bytes((8, 2, 0, 0, 0))
    pixels = zlib.decompress(parts[b"IDAT"])
    rows = [pixels[start : start + 1 + 3 * width] for start in range(0, len(pixels), 1 + 3 * width)]
    assert {row[0] for row in rows} == {0}
    return width, height, [row[1:] for row in rows]


async def test_a_load_is_put_on_a_node_and_what_it_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twin = Twin()
    async with serve_twin(twin) as url, NodeClient(url) as client:
        planned = [Planned(0.01 * number, "law") for number in range(5)]
        outcomes, _ = await put_load(client, planned, max_tokens=3)
        assert [one.error for one in outcomes] == [""] * 5
        assert all(one.tokens == 3 and (one.first_ms or 0) > 0 for one in outcomes)
        twin.error = EngineBusy("no room")
        outcomes, _ = await put_load(client, planned[:1], max_tokens=3)
        assert [one.error for one in outcomes] == ["busy"]
        monkeypatch.setattr(asking_much, "MAX_UNDER_WAY", 1)
        twin.error = None
        twin.word_delay_s = 0.2
        at_once = [Planned(0.0, "law")] * 3
        outcomes, _ = await put_load(client, at_once, max_tokens=3)
        assert sorted(one.error for one in outcomes) == ["", TOO_MANY, TOO_MANY]


async def test_what_some_take_for_the_end_of_a_line_does_not_cut_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("a\u2028b", "\x85c", "\u2029\x0b\x0c\x1c\x1d\x1e\x7fd")
    monkeypatch.setattr(twin_module, "WORDS", words)
    async with serve_twin(Twin()) as url, NodeClient(url) as client:
        answer = await client.ask(Asking("law", "hello"))
    assert answer.text == "".join(words)
    assert [*json.loads(line_of({"said": words}).decode().splitlines()[0])["said"]] == [*words]


async def test_the_command_asks_the_client_of_the_network_and_writes_a_page(
    tmp_path: Path,
) -> None:
    nobody = await command(tmp_path, "testnet", "load", "--home", str(tmp_path))
    assert "no network runs" in str(nobody.exception)
    gateway = tmp_path / GATEWAY
    gateway.mkdir()
    written = Written("mark", "", "", {GATEWAY: str(gateway)})
    (tmp_path / NETWORK_FILE).write_bytes(msgspec.json.encode(written))
    async with serve_twin(Twin()) as url:
        (gateway / RUNNING_FILE).write_bytes(msgspec.json.encode(Running(1, url, [], PEER)))
        page = tmp_path / "page.html"
        done = await trio.to_thread.run_sync(
            trio.from_thread.run,
            command,
            tmp_path,
            *("testnet", "load", "--home", str(tmp_path), "--rate", "20", "--seconds", "1"),
            *("--report", str(page), "--report", str(page.with_suffix(".png")), "--json"),
        )
    assert done.exit_code == 0, (done.output, done.exception)
    told = json.loads(done.stdout)
    assert told["total"]["failed"] == 0
    assert [row["model"] for row in told["rows"]] == ["law"]
    assert "A load on a test network" in page.read_text()
    assert read_png(page.with_suffix(".png").read_bytes())[0] > 0
    refused = await command(
        *(tmp_path, "testnet", "load", "--home", str(tmp_path), "--report", "load.pdf")
    )
    assert ".html or .png" in str(refused.exception)

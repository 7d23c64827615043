"""A load on a network: asked as planned, and told as it was."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node.errors import EngineBusy
from node.running import RUNNING_FILE, Running
from node.testnet import asking_much
from node.testnet.asking import NodeClient
from node.testnet.asking_much import TOO_MANY, put_load
from node.testnet.loading import HEADINGS, Outcome, Planned, as_html, cells, make_report, plan_load
from node.testnet.network import NETWORK_FILE, Written
from node.testnet.plan import GATEWAY
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
            *("--report", str(page), "--json"),
        )
    assert done.exit_code == 0, (done.output, done.exception)
    told = json.loads(done.stdout)
    assert told["total"]["failed"] == 0
    assert [row["model"] for row in told["rows"]] == ["law"]
    assert "A load on a test network" in page.read_text()

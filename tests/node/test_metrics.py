"""What a node measures of itself: readable by Prometheus, bounded, all of it told."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from engine.messages import MemoryUse, Stats, StepRecord
from node import metrics
from node.distributions import TOKENS, Answered, Answers, Histogram
from node.metrics import COUNTERS, ChannelSums, Figures, render
from tests.node.faces import shown
from tests.node.networks import ask, open_lab, until

ROOT = Path(__file__).resolve().parents[2]
MANY = st.integers(0, 1 << 60)
WORDS = st.text(max_size=30)
STATS = st.builds(
    Stats,
    running=MANY,
    waiting=MANY,
    kv_pages_free=st.integers(0, 9),
    kv_pages=st.integers(9, 99),
    adapters_held=st.lists(st.binary(min_size=32, max_size=32), min_size=3, max_size=9),
    adapters_ready=st.lists(st.binary(min_size=32, max_size=32), max_size=3),
    tokens_generated=MANY,
    max_adapters_in_one_step=MANY,
    steps=st.lists(st.builds(StepRecord, MANY, st.just([None]), MANY, MANY, st.floats(0, 1e9))),
    memory=st.none() | st.builds(MemoryUse, st.just("processor"), *[MANY] * 6),
)
ANSWERED = st.builds(
    Answered,
    st.sampled_from(["face", "peer"]),
    prompt_tokens=st.integers(0, 1 << 30),
    completion_tokens=st.integers(0, 1 << 30),
    whole_s=st.floats(0, 1e6),
    first_token_s=st.none() | st.floats(0, 1e6),
)


def spreads_of(answered: list[Answered]) -> Answers:
    answers = Answers()
    for one in answered:
        answers.note(one)
    return answers


USAGE = (
    "gen_ai_client_token_usage_sum{gen_ai_operation_name=chat,gen_ai_token_type=output,"
    "lorikeet_asked_by=%s}"
)
FIGURES = st.builds(
    Figures,
    role=st.sampled_from(["volunteer", "gateway"]),
    uptime_s=st.floats(0, 1e9),
    engine=st.none() | STATS,
    engine_restarts=MANY,
    adapters=MANY,
    reach=st.sampled_from(["unknown", "reachable", "behind"]),
    relays=MANY,
    peers=st.just({"volunteer": 3, "other": 0}),
    counters=st.dictionaries(st.sampled_from([*COUNTERS]) | WORDS, MANY),
    spreads=st.lists(ANSWERED, max_size=5).map(spreads_of).map(Answers.spreads),
    troubles=MANY,
    home_free_bytes=MANY,
    receipts=st.just({("node", "queued"): 1, ("client", "final"): 2}),
    channels=st.just({"node": ChannelSums(1, 2, 3, 4)}),
    credited=MANY,
    epoch=st.none() | MANY,
)
EXAMPLE = Figures(
    "volunteer",
    2.5,
    Stats(
        1,
        2,
        3,
        9,
        [b"a", b"b"],
        [b"a"],
        70,
        2,
        [StepRecord(9, [None, b"a"], 5, 3, 12.0)],
        memory=MemoryUse("processor", 100, 20, 30, 4, 50, 204),
    ),
    0,
    adapters=2,
    reach="reachable",
    relays=0,
    peers={"volunteer": 3},
    counters={"blocks_fetched:one": 2, "blocks_fetched:two": 3, "requests_served": 4},
    spreads=spreads_of([Answered("peer", 7, 5, 1.0, 0.2)]).spreads(),
    troubles=0,
    home_free_bytes=1,
    receipts={("node", "queued"): 1},
    channels={"node": ChannelSums(1, 620, 1000, 380)},
    chain_nodes={"ok": 1},
    credited=5,
    epoch=3,
)


def read(text: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(text.decode()))


def samples(text: bytes) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in read(text):
        for sample in family.samples:
            labels = ",".join(f"{label}={value}" for label, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}"
            assert key not in found
            found[key] = sample.value
    return found


@settings(max_examples=25, deadline=None)
@given(FIGURES)
def test_whatever_a_node_measures_prometheus_reads(figures: Figures) -> None:
    for line in render(figures).decode().splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \S+ .*|\w+(\{(\w+="[^"\\]*",?)+\})? \S+', line), line
    samples(render(figures))


@settings(max_examples=25, deadline=None)
@given(FIGURES)
def test_no_peer_and_no_text_of_a_stranger_makes_a_series(figures: Figures) -> None:
    names = {key.split("{")[0] for key in samples(render(figures))}
    known = {key.split("{")[0] for key in samples(render(EXAMPLE))}
    others = names - known
    assert all(re.fullmatch("lorikeet_[a-z]+(_[a-z]+)+_total", name) for name in others)
    assert len(others) <= metrics.MAX_OTHER_COUNTERS
    assert len(samples(render(figures))) < 300


@given(st.lists(st.floats(0, 1e9)))
def test_a_histogram_counts_every_value_once_and_at_its_bound(values: list[float]) -> None:
    histogram = Histogram(TOKENS)
    for value in [*values, TOKENS[0]]:
        histogram.note(value)
    values = [*values, TOKENS[0]]
    expected = [sum(value <= bound for value in values) for bound in TOKENS]
    assert histogram.at_most == (*expected, len(values))


def test_figures_are_what_they_say() -> None:
    found = samples(render(EXAMPLE))
    assert found["lorikeet_blocks_fetched_total{}"] == 5
    assert found["lorikeet_requests_served_total{}"] == 4
    assert found["lorikeet_requests_failed_total{}"] == 0
    assert found["lorikeet_engine_requests{state=waiting}"] == 2
    parts = [value for key, value in found.items() if "engine_memory_bytes" in key]
    assert sum(parts) == found["lorikeet_engine_memory_total_bytes{}"] == 204
    assert found["lorikeet_engine_kv_pages{state=used}"] == 6
    assert found["lorikeet_engine_adapters{place=slot}"] == 1
    assert found["lorikeet_engine_batch_adapters{}"] == 2
    assert found["lorikeet_engine_step_seconds{}"] == 0.012
    assert found["lorikeet_channel_spent_fee_units{part=node}"] == 620
    labels = "gen_ai_operation_name=chat,lorikeet_asked_by=peer"
    assert found[f"gen_ai_server_time_to_first_token_seconds_sum{{{labels}}}"] == 0.2
    assert found[f"gen_ai_server_time_per_output_token_seconds_sum{{{labels}}}"] == 0.2
    assert found[USAGE % "peer"] == 5
    assert found["process_resident_memory_bytes{}"] > 0


def test_whatever_is_counted_is_told_listed_or_not() -> None:
    counted = {name for path in (ROOT / "node").rglob("*.py") for name in _counted_in(path)}
    assert len(counted & set(COUNTERS)) > 40
    figures = dataclasses.replace(EXAMPLE, counters=dict.fromkeys(counted, 2))
    found = samples(render(figures))
    assert all(found[f"lorikeet_{name}_total{{}}"] == 2 for name in counted)


def _counted_in(path: Path) -> Iterator[str]:
    """What a source counts under a name that it spells out."""
    for call in ast.walk(ast.parse(path.read_text())):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        whose = ast.unparse(call.func.value)
        if not whose.endswith(("telemetry", "self")) or call.func.attr not in ("count", "reject"):
            continue
        for part in ast.walk(call.args[0]):  # either of two, where one is chosen
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                name = part.value.rstrip(":")
                if re.fullmatch("[a-z]+(_[a-z]+)*", name) and name != "s_rejected":
                    yield f"{name}s_rejected" if call.func.attr == "reject" else name


def test_the_dashboard_shows_only_what_is_measured() -> None:
    board = json.loads((ROOT / "docs/grafana/lorikeet.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [one["query"] for one in board["templating"]["list"]]
    used = {name for text in asked for name in re.findall(r"(?:lorikeet|gen_ai|process)_\w+", text)}
    labels = {"lorikeet_asked_by", "gen_ai_token_type"}
    told = samples(render(EXAMPLE))
    assert used - labels - {key.split("{")[0] for key in told} == set()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) > 10
    for expression in asked:
        for label, value in re.findall(r'(\w+)="([^"$]+)"', expression):
            assert any(f"{label}={value}" in key for key in told), expression


async def test_an_answer_shows_at_the_node_that_gave_it_and_at_the_one_that_asked(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway")) as lab:
        async with lab.daemon("volunteer") as node, lab.daemon("gateway", role="gateway") as asker:
            answered = await ask(asker, node=node.host.peer_id)
            tokens = answered.ended.completion_tokens
            spent = answered.ended.amount

            async def is_settled() -> bool:
                return b"requests_served_total 1.0" in await node.metrics()

            await until(is_settled)
            async with shown(node, tmp_path / "volunteer") as url, httpx.AsyncClient() as http:
                scraped = await http.get(f"{url}/metrics")
            assert scraped.headers["content-type"] == metrics.CONTENT_TYPE
            theirs = samples(scraped.content)
            ours = samples(await asker.metrics())
    assert theirs[USAGE % "peer"] == ours[USAGE % "face"] == tokens
    first = "gen_ai_server_time_to_first_token_seconds_count"
    labels = "gen_ai_operation_name=chat,lorikeet_asked_by"
    assert theirs[f"{first}{{{labels}=peer}}"] == ours[f"{first}{{{labels}=face}}"] == 1
    assert theirs["lorikeet_engine_up{}"] == 1
    assert ours["lorikeet_engine_up{}"] == 0
    assert theirs["lorikeet_engine_tokens_generated_total{}"] >= tokens
    assert ours["lorikeet_peers{role=volunteer}"] == 1
    assert ours["lorikeet_channel_spent_fee_units{part=client}"] == spent
    earned = [theirs[f"lorikeet_receipts{{part=node,state={at}}}"] for at in ("queued", "promised")]
    assert sum(earned) == 1
    assert ours["lorikeet_chain_nodes{state=ok}"] == 1

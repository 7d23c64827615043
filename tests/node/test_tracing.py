"""Traces: one request, followed from its HTTP face to the payout on the chain by real daemons; what
is kept is bounded, holds nobody's text, and is what other programs take.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import trio
from hypothesis import given
from hypothesis import strategies as st

from node.answering.times import MAX_STEPS, Times
from node.api.traces import RECEIPT, Span, Trace, below, open_context, roots
from node.daemon import NodeDaemon
from node.otlp import to_otlp
from node.tracing import EARNED, FINAL, MAX_SPANS, PAID_OUT, Traces
from tests.node.faces import command, shown, told
from tests.node.networks import open_lab, until

PARENT = "00-" + "4b" * 16 + "-" + "7a" * 8 + "-01"
SECRET = "the-cat-is-called-Mitzi"


def drawn(count: int) -> bytes:
    return b"\x11" * count


async def test_one_request_is_followed_from_its_face_to_the_payout(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway", "aggregator")) as lab:
        everybody = {"aggregator": lab.identity("aggregator").peer_id, "watch_interval_s": 0.5}
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody),
            lab.daemon("volunteer", **everybody) as volunteer,
            lab.daemon("gateway", role="gateway", **everybody) as gateway,
            shown(gateway, tmp_path / "gateway") as url,
            shown(volunteer, tmp_path / "volunteer"),
        ):
            body = {"model": "base", "prompt": SECRET, "max_tokens": 6}
            async with httpx.AsyncClient() as client:
                reply = await client.post(
                    f"{url}/v1/completions", json=body, headers={"traceparent": PARENT}, timeout=60
                )
            receipt = reply.json()["lorikeet"]["receipt"]
            trace_id = reply.headers["traceparent"].split("-")[1]
            assert trace_id == "4b" * 16, "whoever asks names the trace"

            bought = gateway.trace(receipt)
            assert bought.trace == trace_id
            assert bought.receipts == (receipt,)
            (asked,) = roots(bought.spans)
            assert (asked.name, asked.parent) == ("POST /v1/completions", "7a" * 8)
            (answer,) = below(asked, bought.spans)
            assert answer.name == "chat base"
            assert answer.attributes["gen_ai.usage.output_tokens"] == 6
            (asking,) = [one for one in below(answer, bought.spans) if one.name == "ask"]
            assert asking.attributes["lorikeet.peer"] == volunteer.host.peer_id
            steps = [one.name for one in below(asking, bought.spans)]
            assert steps == ["offer", "channel and voucher", "first token", "answer", "receipt"]
            assert {"lookup", "quote"} <= names_of(bought)

            await until(lambda: {FINAL} <= names_of(gateway.trace(receipt)))
            await until(lambda: {PAID_OUT} <= names_of(volunteer.trace(receipt)))
            served = volunteer.trace(receipt)
            ends = [
                one.name
                for one in sorted(served.spans, key=lambda span: span.ended_ns)
                if one.attributes.get(RECEIPT) == receipt
            ]
            assert ends == ["outbox", "chat", EARNED, "promise", "seal", FINAL, PAID_OUT]
            assert {"first token", "answer", "settle"} <= names_of(served)

            shown_tree = await command(tmp_path / "volunteer", "trace", receipt[:16])
            assert shown_tree.exit_code == 0, shown_tree.output
            assert "payout" in shown_tree.stdout
            listed = await told(tmp_path / "gateway", "trace")
            assert listed[0]["trace"] == trace_id
            missing = await command(tmp_path / "gateway", "trace", "ffff")
            assert missing.exit_code == 1
            file = tmp_path / "trace.json"
            await command(tmp_path / "gateway", "trace", receipt, "--otlp", str(file))
            written = json.loads(file.read_text())
            (scoped,) = written["resourceSpans"][0]["scopeSpans"]
            assert {one["traceId"] for one in scoped["spans"]} == {trace_id}
            await one_that_fails_says_no_more_than_its_code(url, gateway)
        for home in ("gateway", "volunteer"):
            kept = (tmp_path / home / "traces").read_text()
            assert receipt in kept
            assert SECRET not in kept
        again = Traces()
        again.load(tmp_path / "volunteer" / "traces")
        assert again.find(receipt) == served, "a daemon that starts again has them"


async def one_that_fails_says_no_more_than_its_code(url: str, gateway: NodeDaemon) -> None:
    async with httpx.AsyncClient() as client:
        body = {"model": SECRET, "prompt": "hello"}
        reply = await client.post(f"{url}/v1/completions", json=body, timeout=60)
    assert reply.status_code == 404
    failed = gateway.trace(reply.headers["traceparent"].split("-")[1])
    assert {one.error for one in roots(failed.spans)} == {"model_not_found"}
    assert SECRET not in repr(failed)


def names_of(trace: Trace) -> set[str]:
    return {one.name for one in trace.spans}


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.?"))
def test_a_header_that_names_no_trace_begins_one(header: str) -> None:
    context = open_context(header, "answer", 0, drawn)
    names = header[:2] != "ff" and header[3:35].strip("0") and header[36:52].strip("0")
    if context.parent:
        assert names
        assert (context.trace, context.parent) == (header[3:35], header[36:52])
    else:
        assert context.trace == "11" * 16
    assert context.span == "11" * 8
    back = open_context(context.traceparent, "answer", 0, drawn)
    assert (back.trace, back.parent) == (context.trace, context.span)


def test_what_a_traceparent_may_be() -> None:
    assert open_context(PARENT, "answer", 0, drawn).parent == "7a" * 8
    later = PARENT.replace("00-", "01-", 1) + "-more"
    assert open_context(later, "answer", 0, drawn).parent == "7a" * 8
    for bad in (PARENT + "-more", PARENT.upper(), "00-" + "0" * 32 + PARENT[35:], None, "", "ff"):
        assert open_context(bad, "answer", 0, drawn).parent == "", bad


Event = tuple[str, int, int]


@given(
    st.lists(
        st.tuples(st.sampled_from(["answer", "step", "paid"]), st.integers(0, 9), st.integers(0, 3))
    )
)
def test_what_is_kept_stays_within_its_bounds_and_is_the_same_when_read_again(
    events: list[Event],
) -> None:
    lines: list[bytes] = []

    def write(line: bytes) -> bool:
        lines.append(line)
        return True

    traces = Traces(write, now_ns=lambda: 10**9, most=4)
    for what, number, other in events:
        receipt = bytes([number]) * 32
        if what == "answer":
            spans = [span_of(f"{number:02x}" * 8)]
            traces.note(f"{other:02x}" * 16, spans, receipt.hex())
        elif what == "step":
            traces.step(receipt, [EARNED, "seal", FINAL, "promise"][other], epoch=number)
        else:
            traces.paid_out(number)
        traces.check()
    again = Traces(most=4)
    again.read(lines)
    assert again.latest(9) == traces.latest(9)


def span_of(span: str) -> Span:
    return Span(span, "", "answer", "internal", 5, 10**9)


def test_nobody_makes_a_trace_grow_without_end() -> None:
    traces = Traces()
    for number in range(3 * MAX_SPANS):
        traces.note("4b" * 16, [span_of(f"{number:016x}")], f"{number:064x}")
    traces.check()
    (kept,) = traces.latest(9)
    assert len(kept.spans) == MAX_SPANS
    times = Times()
    for _ in range(3 * MAX_STEPS):
        times.note("step", 0.0)
    assert len(times.trace("chat", {})) == MAX_STEPS + 2


def test_a_traces_export_is_what_collectors_take() -> None:
    span = Span("02" * 8, "01" * 8, "ask", "client", 5, 9, {"a": 1, "b": "x", "c": 0.5}, "left")
    resource: dict[str, Any] = to_otlp([Trace("4b" * 16, (span,))], {"service.name": "lorikeet"})
    (scoped,) = resource["resourceSpans"][0]["scopeSpans"]
    assert scoped["spans"] == [
        {
            "traceId": "4b" * 16,
            "spanId": "02" * 8,
            "parentSpanId": "01" * 8,
            "name": "ask",
            "kind": 3,
            "startTimeUnixNano": "5",
            "endTimeUnixNano": "9",
            "attributes": [
                {"key": "a", "value": {"intValue": "1"}},
                {"key": "b", "value": {"stringValue": "x"}},
                {"key": "c", "value": {"doubleValue": 0.5}},
            ],
            "status": {"code": 2, "message": "left"},
        }
    ]


async def test_a_step_that_is_cancelled_says_that_it_was_left() -> None:
    times = Times()
    with trio.CancelScope() as scope, times.step("quote"):
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert [one.error for one in times.trace("chat", {})[:1]] == ["left"]

"""The stream that the page lives on: each part once, and again when it changed."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

import trio

from node.api.money import ReceiptInfo
from node.api.status import StatusInfo
from node.errors import NodeError
from node.http.page.live import brief, summary
from tests.node.twin import RECEIPT, Twin, serve_twin
from tests.page.twin import PageTwin

LIVE = "/lorikeet/v1/live"
OFTEN = ("held", "arriving", "runs", "log")
SELDOM = ("peers", "banned", "datanets", "receipts", "adapters", "earnings", "stuck", "channels")


async def listen(url: str, until: Any) -> list[dict[str, Any]]:
    """What the stream tells until that is so."""
    told: list[dict[str, Any]] = []
    host, _, port = url.removeprefix("http://").partition(":")
    with trio.fail_after(60):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(f"GET {LIVE} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            data = b""
            async for part in stream:
                *lines, data = (data + part).split(b"\n")
                told += [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
                if until(told):
                    return told
    raise AssertionError("the stream ended")


async def test_every_part_is_told_and_told_again_only_when_it_changed() -> None:
    def both(told: list[dict[str, Any]]) -> bool:
        return Counter(one["type"] for one in told)["status"] >= 3

    async with serve_twin(PageTwin()) as url:
        told = await listen(url, both)
    counts = Counter(one["type"] for one in told)
    others = {name: count for name, count in counts.items() if name != "status"}
    assert others == dict.fromkeys((*OFTEN, *SELDOM), 1)


async def test_a_part_that_cannot_be_told_says_why_and_the_others_go_on() -> None:
    @dataclasses.dataclass
    class Poor(PageTwin):
        async def earnings(self) -> Any:
            raise NodeError("the chain does not answer")

    async with serve_twin(Poor()) as url:
        told = await listen(
            url, lambda told: {"earnings", "status"} <= {one["type"] for one in told}
        )
    (found,) = [one for one in told if one["type"] == "earnings"]
    assert found == {"type": "earnings", "error": "the chain does not answer"}


async def test_thousands_of_steps_and_receipts_are_told_in_short() -> None:
    status = dataclasses.replace(
        await Twin().status(), engine={"up": True, "steps": list(range(256))}
    )
    short = brief(status)
    assert isinstance(short, StatusInfo)
    assert short.engine == {"up": True, "steps": list(range(224, 256))}
    many: list[ReceiptInfo] = [
        dataclasses.replace(RECEIPT, sequence=number) for number in range(500)
    ]
    told = summary([*many, dataclasses.replace(RECEIPT, state="final")])
    assert told["total"] == 501
    assert told["sums"] == [
        {"role": "client", "state": "final", "count": 1, "amount": RECEIPT.amount},
        {"role": "client", "state": "promised", "count": 500, "amount": 500 * RECEIPT.amount},
    ]
    assert told["newest"] == many[:100]

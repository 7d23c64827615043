"""A daemon whose Ethereum node goes mad, falls silent or forgets, one after the other: it says what
is wrong, lives, and works again when the node does.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from node.errors import ConfigError
from tests.node.networks import open_lab, until

Mode = Callable[[Any], Any]


class Proxy(ThreadingHTTPServer):
    """Stands before a chain; `mode` turns its answers into others, None hands them on."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        self.target = target
        self.mode: Mode | None = None
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, body: bytes) -> bytes:
        request = urllib.request.Request(self.target, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answered:
            data: bytes = answered.read()
        if self.mode is None:
            return data
        return json.dumps(self.mode(json.loads(data))).encode()


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_POST(self) -> None:
        answer = self.server.answer(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def open_proxy(target: str) -> Iterator[Proxy]:
    with Proxy(target) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


def always(result: object) -> Mode:
    return lambda answer: {**answer, "result": result}


MODES: dict[str, Mode] = {
    "null": always(None),
    "a word": always("many"),
    "a number": always(5),
    "a list": always([]),
    "an object": always({"number": None}),
    "no JSON-RPC": lambda _: [],
    "an error": lambda _: {"error": {"code": -32603, "message": "internal error"}},
    "an error of no kind": lambda _: {"error": "closed"},
}


async def test_whatever_its_ethereum_node_says_the_daemon_lives(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("aggregator",)) as lab:
        assert lab.chain is not None
        with open_proxy(lab.chain.rpc) as proxy:
            settings = {"role": "aggregator", "chain_rpc": (proxy.url,), "epoch_s": 0.2}
            async with lab.daemon("aggregator", **settings) as daemon:
                for name, mode in MODES.items():
                    proxy.mode = mode
                    await until(lambda: bool(daemon.telemetry.troubles), 20)
                    settlement = (await daemon.status()).settlement
                    assert settlement is not None
                    assert settlement["troubles"], name
                    proxy.mode = None
                    await until(lambda: not daemon.telemetry.troubles, 60)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chain_id": 1}, "chain id 1"),
        ({"channels": "0x" + "11" * 20}, "channels 0x1111"),
        ({"token": "0x" + "11" * 20}, "token 0x1111"),
        ({"settlement": "0x" + "11" * 20}, "no Settlement contract"),
    ],
)
async def test_addresses_that_are_not_the_contracts_are_refused_at_the_start(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with (
        open_lab(tmp_path, chain_for=("aggregator",)) as lab,
        pytest.raises(ConfigError, match=words),
    ):
        async with lab.daemon("aggregator", role="aggregator", **changes):
            pass


async def test_a_chain_that_was_started_anew_is_told_at_the_start(tmp_path: Path) -> None:
    with open_lab(tmp_path / "first", chain_for=("aggregator",)) as lab:
        home = lab.config("aggregator").home
        async with lab.daemon("aggregator", role="aggregator"):
            pass
    with (
        open_lab(tmp_path / "second", chain_for=("aggregator",)) as lab,
        pytest.raises(ConfigError, match=r"started anew.*new --home"),
    ):
        async with lab.daemon("aggregator", role="aggregator", home=home):
            pass

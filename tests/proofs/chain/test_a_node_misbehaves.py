"""What comes back from a node is bounded, asked for once, and named."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from proofs.chain.errors import (
    ChainError,
    ChainUnreachable,
    ContractReverted,
    NonceTaken,
    RpcRefused,
)
from proofs.chain.evm import MemoryChain
from proofs.chain.rpc import MAX_RESPONSE_BYTES, Rpc
from proofs.chain.serve import serve_rpc
from proofs.chain.wallet import Wallet
from tests.proofs.chain.world import secret

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def node(answer: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers every request so; its URL, and the requests it got."""
    requests: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(self.rfile.read(int(self.headers["content-length"])))
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    ).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()


def say(body: bytes, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def refusal(answer: Answer, deadline_s: float = 5) -> tuple[ChainError, int]:
    """What a broadcast ends with, and after how many requests."""
    with node(answer) as (url, requests):
        rpc = Rpc(url, deadline_s)
        with pytest.raises(ChainError) as refused:
            Wallet(rpc, secret("anybody"), 1).broadcast(b"\2")
        rpc.close()
        return refused.value, len(requests)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (say(b"<html>", 502), ChainUnreachable, "502"),
        (say(b'{"message": "slow down"}', 429), ChainUnreachable, "429"),
        (say(b"\xff"), ChainUnreachable, "not JSON"),
        (say(b"[]"), ChainUnreachable, "not JSON-RPC"),
        (say(b"{}"), ChainUnreachable, "not JSON-RPC"),
        (say(b"moved", 307, (("location", "/"),)), ChainUnreachable, "not JSON"),
        (say(b'{"error": "closed"}'), RpcRefused, "closed"),
        (
            say(b'{"error": {"code": -32000, "message": "Nonce too low"}}'),
            NonceTaken,
            "Nonce too low",
        ),
        (
            say(b'{"error": {"code": -32000, "message": "nonce too low"}}', 400),
            NonceTaken,
            "nonce too low",
        ),
        (
            say(
                b'{"error": {"code": 3, "message": "execution reverted", "data":'
                b' "0x4e487b71%064x"}}' % 17
            ),
            ContractReverted,
            r"Panic\(17\)",
        ),
        (
            say(b'{"error": {"code": 3, "message": "execution reverted", "data": "0xnothex---"}}'),
            RpcRefused,
            "execution reverted",
        ),
    ],
)
def test_every_refusal_has_its_name_and_nothing_is_asked_twice(
    answer: Answer, error: type[ChainError], words: str
):
    refused, num_requests = refusal(answer)
    assert type(refused) is error
    with pytest.raises(error, match=words):
        raise refused
    assert num_requests == 1


@pytest.mark.parametrize(
    "answer",
    [lambda handler: handler.connection.close(), say(b"[", headers=(("content-length", "9"),))],
)
def test_an_answer_that_breaks_off_is_not_asked_for_again(answer: Answer):
    refused, num_requests = refusal(answer)
    assert (type(refused), num_requests) == (ChainUnreachable, 1)


def test_connections_are_kept():
    with serve_rpc(MemoryChain(31337, {}, {})) as url:
        rpc = Rpc(url)
        for _ in range(5):
            rpc.call("eth_chainId")
        (pool,) = rpc._session.get_adapter(url).poolmanager.pools._container.values()
        assert (pool.num_connections, pool.num_requests) == (1, 5)
        rpc.close()


def test_already_known_is_success():
    with node(say(b'{"error": {"code": -32000, "message": "already known"}}')) as (url, _):
        rpc = Rpc(url)
        Wallet(rpc, secret("anybody"), 1).broadcast(b"\2")
        rpc.close()


def test_an_endless_answer_ends():
    def drip(handler: BaseHTTPRequestHandler, piece: bytes, pause_s: float) -> None:
        say(b"[")(handler)
        try:
            for _ in range(1000):
                handler.wfile.write(piece)
                time.sleep(pause_s)
        except OSError:
            pass

    for piece, pause_s in ((b" " * (MAX_RESPONSE_BYTES // 16), 0), (b" ", 0.05)):
        started = time.monotonic()
        refused, _ = refusal(
            lambda handler, piece=piece, pause_s=pause_s: drip(handler, piece, pause_s),
            deadline_s=1,
        )
        assert "answers with more than" in str(refused)
        assert time.monotonic() - started < 30


def test_who_has_no_chain_does_not_wait_for_web3():
    code = (
        "import sys, proofs.chain.client, proofs.chain.poster; sys.exit('web3' in sys.modules or"
        " 'eth_account' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0

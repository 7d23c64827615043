"""Serves a chain in memory over HTTP on loopback.

One request at a time reaches the chain; requests are bounded in size. Knows no method.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .evm import MemoryChain
from .local_rpc import LocalRpc, error_response

MAX_REQUEST_BYTES = 1024 * 1024
MAX_DISCARD_BYTES = 16 * MAX_REQUEST_BYTES
IDLE_DEADLINE_S = 60.0


@contextmanager
def serve_rpc(chain: MemoryChain, port: int = 0) -> Iterator[str]:
    """Serve while the context lasts; the URL."""
    server = ChainServer(chain, port)
    serving = {"poll_interval": 0.05}
    threading.Thread(target=server.serve_forever, kwargs=serving, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class ChainServer(ThreadingHTTPServer):
    """One chain, and a thread for each connection; the lock lets one request at a time through."""

    daemon_threads = True

    def __init__(self, chain: MemoryChain, port: int) -> None:
        self._rpc = LocalRpc(chain)
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of an error of ours; a client that was killed is none."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def answer(self, request: Any) -> Any:
        """Answer one JSON-RPC request, or a list of them."""
        with self._lock:
            return self._rpc.answer(request)


class Handler(BaseHTTPRequestHandler):
    """One connection: bounded requests in, answers out."""

    server: ChainServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_DEADLINE_S
    # Headers and body are two writes: Nagle would hold the second for 40 ms.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer one request."""
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_REQUEST_BYTES:
            self._refuse(int(length) if length.isdigit() else 0)
            return
        try:
            request = json.loads(self.rfile.read(int(length)))
        except ValueError:
            self._send(400, error_response(None, -32700, "not JSON"))
            return
        self._send(200, self.server.answer(request))

    def _refuse(self, num_bytes: int) -> None:
        """Refuse a body, and read it all the same: a socket closed over unread bytes is reset, and
        the answer may be lost with it.
        """
        self.close_connection = True
        problem = f"a request has at most {MAX_REQUEST_BYTES} bytes and says how many"
        self._send(413, error_response(None, -32600, problem))
        left = min(num_bytes, MAX_DISCARD_BYTES)
        while left and (piece := self.rfile.read1(min(left, 64 * 1024))):
            left -= len(piece)

    def _send(self, status: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if self.close_connection:  # unsaid, a client's next request would get no answer
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: standard error belongs to real trouble."""

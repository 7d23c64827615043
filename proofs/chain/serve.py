"""A chain in memory behind HTTP on loopback.

One request at a time reaches the chain; requests are bounded in size.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .evm import MemoryChain
from .local_rpc import LocalRpc, error_response

MAX_REQUEST_BYTES = 1024 * 1024
MAX_DISCARD_BYTES = 16 * MAX_REQUEST_BYTES
IDLE_DEADLINE_S = 60.0


@contextmanager
def serve_rpc(chain: MemoryChain, port: int = 0) -> Iterator[str]:
    """Serve while the context lasts; the URL."""
    rpc = LocalRpc(chain)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = IDLE_DEADLINE_S
        disable_nagle_algorithm = (
            True  # headers and body are two writes: Nagle would hold the second for 40 ms
        )

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            if not length.isdigit() or int(length) > MAX_REQUEST_BYTES:
                self.close_connection = True
                self._answer(
                    413,
                    error_response(
                        None,
                        -32600,
                        f"a request has at most {MAX_REQUEST_BYTES} bytes and says how many",
                    ),
                )
                self._discard(int(length) if length.isdigit() else 0)
                return
            try:
                request = json.loads(self.rfile.read(int(length)))
            except ValueError:
                self._answer(400, error_response(None, -32700, "not JSON"))
                return
            with lock:
                answer = rpc.answer(request)
            self._answer(200, answer)

        def _answer(self, status: int, answer: object) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            if self.close_connection:
                self.send_header(
                    "connection", "close"
                )  # or a client takes it for open, and its next request gets no answer
            self.end_headers()
            self.wfile.write(body)

        def _discard(self, num_bytes: int) -> None:
            """Read what is refused: a socket closed over unread bytes is reset, and the answer may
            be lost with it.
            """
            left = min(num_bytes, MAX_DISCARD_BYTES)
            while left and (piece := self.rfile.read1(min(left, 64 * 1024))):
                left -= len(piece)

        def log_message(self, *_: object) -> None:
            """Say nothing: standard error belongs to real trouble."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()

"""Decides who may speak to the daemon over HTTP, and how much: local clients only, bounded bodies.

Knows no route.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

import trio
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem
from .refusing import refuse
from .session import Session

MAX_BODY_BYTES = 1 << 20
SMALL_BODY_BYTES = 64 << 10
MAX_BODIES_BYTES = 64 << 20
"""What bodies beyond the first SMALL_BODY_BYTES of each may take together while they arrive."""
BODY_DEADLINE_S = 30.0
MAX_DRAIN_S = 2.0  # how long a refused body may keep coming before the connection is closed
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
TOO_LARGE = Problem(
    413, "request_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes", "body"
)
BUSY = Problem(
    503, "too_many_bodies", "too many large bodies are arriving; send it again in a second", "body"
)


class LoopbackGuard:
    """Admits only local clients, and only bounded bodies.

    A web page can make a browser send requests here: by a name that it rebinds to 127.0.0.1 (then
    `Host` is that name) or by a plain cross-origin post (then `Origin` is that page). Both are
    refused, the latter by the `session`, and no CORS header is ever sent. `allowed_hosts` are names
    that the operator vouches for beside those of this machine. What a route sends is nothing that a
    browser runs, unless the route says so.
    """

    def __init__(self, app: ASGIApp, session: Session, allowed_hosts: Collection[str] = ()) -> None:
        self._app = app
        self._session = session
        self._hosts = LOOPBACK_HOSTS | {host.lower() for host in allowed_hosts}
        self._arriving = Arriving()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse one request; websockets are not served at all."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        problem = refusal_of(request, self._hosts) or self._session.refusal_of(request)
        body: bytes | Problem = b""
        if problem is None:
            body = await read_body(receive, self._arriving)
            problem = body if isinstance(body, Problem) else None
        else:
            await drain(receive)
        if problem is not None:
            await refuse(scope["path"], problem)(scope, receive, send)
        elif isinstance(body, bytes):
            await self._app(scope, once(body, receive), inert(send))


INERT = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; sandbox",
    b"x-content-type-options": b"nosniff",
    b"cross-origin-resource-policy": b"same-origin",
}
"""What others publish is served under the page's own origin: a browser shall run none of it."""


def inert(send: Send) -> Send:
    """Return a `send` that adds these headers, where a route does not say otherwise."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            said = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in INERT.items() if name not in said]
            message = {**message, "headers": headers}
        await send(message)

    return sending


class Arriving:
    """How many bytes of bodies are here whose rest is not."""

    def __init__(self) -> None:
        self._bytes = 0

    def take(self, size: int, before: int) -> bool:
        """Count more of a body that has `before` bytes already; False where it is too much."""
        is_small = before + size <= SMALL_BODY_BYTES
        if not is_small and self._bytes + size > MAX_BODIES_BYTES:
            return False
        self._bytes += size
        return True

    def forget(self, size: int) -> None:
        """A body is complete, or refused."""
        self._bytes -= size


async def read_body(receive: Receive, arriving: Arriving) -> bytes | Problem:
    """Read a whole small body before anything looks at it."""
    body = bytearray()
    try:
        with trio.move_on_after(BODY_DEADLINE_S):
            return await _read_body(receive, arriving, body)
        return Problem(
            408,
            "request_timeout",
            f"the body did not arrive within {BODY_DEADLINE_S:.0f} s",
            "body",
        )
    finally:
        arriving.forget(len(body))


async def _read_body(receive: Receive, arriving: Arriving, body: bytearray) -> bytes | Problem:
    more = True
    while more:
        part, more = await receive_part(receive)
        refusal = TOO_LARGE if len(body) + len(part) > MAX_BODY_BYTES else None
        if refusal is None and not arriving.take(len(part), len(body)):
            refusal = BUSY
        if refusal is not None:
            await drain(receive)
            return refusal
        body += part
    return bytes(body)


async def receive_part(receive: Receive) -> tuple[bytes, bool]:
    """Return the body's next part, and whether more follows (nothing does once the client has
    left).
    """
    message = await receive()
    return message.get("body", b""), message["type"] == "http.request" and message.get(
        "more_body", False
    )


def once(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body as one message, then whatever follows."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def drain(receive: Receive) -> None:
    """Read a refused body to its end, so that its sender gets to read why."""
    with trio.move_on_after(MAX_DRAIN_S):
        more = True
        while more:
            _, more = await receive_part(receive)


def refusal_of(request: Request, hosts: Collection[str]) -> Problem | None:
    """Return why a request's headers are refused, None when they are not."""
    host = request.headers.get("host", "")
    if hostname_of(f"//{host}") not in hosts:
        return Problem(
            403,
            "forbidden",
            f"the Host header {host!r} is not loopback; use http://127.0.0.1, or name the host in"
            " the setting allowed_hosts",
            "host",
        )
    length = request.headers.get("content-length", "0")
    return None if length.isdecimal() and int(length) <= MAX_BODY_BYTES else TOO_LARGE


def hostname_of(url: str) -> str | None:
    """Return the host part, None when there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None

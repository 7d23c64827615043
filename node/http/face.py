"""Carries one answer to a client of any API, whole or as a stream.

Decides when an answer is cancelled (its client left) and when its status is sent (at its first
event). What its bytes look like is for a `Face` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..api.answers import CompletionEvent, CompletionRequest
from ..api.daemon import Daemon
from ..errors import NodeError
from .leaving import until_left
from .problems import Json, Problem, json_response, problem_of
from .tracing import in_trace

LINE_ENDS = tuple((chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029))
"""Those that JSON leaves as they are."""

EVENT_STREAM = "text/event-stream; charset=utf-8"
JSON_LINES = "application/x-ndjson"


class Face(Protocol):
    """One answer in one API's words. It is told every event; a stream sends what it returns."""

    @property
    def media_type(self) -> str:
        """Return what a stream of it is."""

    def take(self, event: CompletionEvent) -> bytes:
        """Note an event; return what a stream sends for it."""

    def end(self) -> bytes:
        """Return what a stream sends last of all."""

    def whole(self) -> Mapping[str, object]:
        """Return the answer, complete, as one object."""

    def refuse(self, problem: Problem) -> Response:
        """Return the response to a request that got no answer."""

    def break_off(self, problem: Problem) -> bytes:
        """Return what a stream sends when the rest will not come."""


@dataclass(frozen=True)
class FaceResponse:
    """An answer on its way: an ASGI response whose status waits for the daemon's first event."""

    media_types: ClassVar = (Json.media_type, EVENT_STREAM, JSON_LINES)
    daemon: Daemon
    request: CompletionRequest
    face: Face
    stream: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves first."""
        await until_left(receive, partial(self._answer, scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = ByteStream(send, self.face.media_type)
        try:
            asked = in_trace(self.request, scope)
            async with self.daemon.complete(asked) as events:
                async for event in events:
                    data = self.face.take(event)
                    if self.stream:
                        await stream.send(data)
        except NodeError as error:
            problem = problem_of(error)
            if stream.begun:
                await stream.end(self.face.break_off(problem))
            else:
                await self.face.refuse(problem)(scope, receive, send)
            return
        if self.stream:
            await stream.end(self.face.end())
        else:
            await json_response(self.face.whole())(scope, receive, send)


class ByteStream:
    """The parts of one response; the headers leave with the first."""

    def __init__(self, send: Send, media_type: str) -> None:
        self._send = send
        self._media_type = media_type
        self.begun = False

    async def send(self, data: bytes) -> None:
        """Send a part, if there is anything in it."""
        if data:
            await self._begin()
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        """Send the last part, which may be empty."""
        await self._begin()
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            headers = [
                (b"content-type", self._media_type.encode()),
                (b"cache-control", b"no-store"),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})


def json_line(value: object) -> bytes:
    """Write a value as one line, whatever a reader takes for the end of one: many split by Unicode
    (httpx, Python), and a model may say any of these.
    """
    line = msgspec.json.encode(value)
    for mark, escape in LINE_ENDS:
        if mark in line:
            line = line.replace(mark, escape)
    return line


def named_event(event: Mapping[str, object]) -> bytes:
    """Write one server-sent event under the name of its `type`."""
    return b"event: %s\ndata: %s\n\n" % (
        str(event["type"]).encode(),
        json_line(event),
    )

"""Takes and gives W3C's `traceparent`: in which trace a request is, and who asked for it."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..api.answers import CompletionRequest
from ..api.traces import TraceContext, open_context

HEADER = b"traceparent"
KEY = "lorikeet.trace"


class Traced:
    """Gives each question (POST) its place in a trace, which the answer's headers name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        said = [value for name, value in scope["headers"] if name == HEADER]
        # Several say nothing clear, as the specification has it.
        header = said[0].decode("latin-1") if len(said) == 1 else None
        name = f"POST {scope['path']}"
        context = open_context(header, name, time.time_ns(), secrets.token_bytes)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = (HEADER, context.traceparent.encode())
                message = {**message, "headers": [*message.get("headers", ()), told]}
            await send(message)

        await self._app({**scope, KEY: context}, receive, sending)


def in_trace(request: CompletionRequest, scope: Scope) -> CompletionRequest:
    """Return a question that knows its place."""
    context: TraceContext | None = scope.get(KEY)
    return request if context is None else replace(request, trace=context)

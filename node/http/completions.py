"""Serves OpenAI's routes over a daemon, answers streamed or whole.

Decides when an answer is cancelled: as soon as its client leaves. Does not know how a body is read
(openai.py) or an answer shaped (shapes.py).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..api.adapters import AdapterInfo
from ..api.answers import CallDelta, CompletionEvent, CompletionRequest, Continued, Delta, Started
from ..api.daemon import Daemon
from ..errors import NodeError
from .face import EVENT_STREAM, ByteStream, json_line
from .fields import BadField
from .leaving import until_left
from .openai import Asked, ChatBody, TextBody, parse
from .problems import Json, Problem, json_response, problem_of, problem_response
from .shapes import AnswerShape, Choice
from .taking import noting
from .tracing import in_trace

MAX_AT_ONCE = 16


class Lists(Protocol):
    """Who knows of adapters."""

    async def adapters(self) -> list[AdapterInfo]:
        """List every adapter that is held here or has been heard of."""


class Answers(Protocol):
    """Who answers one request: a daemon, or one sale."""

    def complete(
        self, request: CompletionRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[CompletionEvent]]:
        """Answer; leaving the block early cancels it everywhere."""


Endpoint = Callable[[Request], Awaitable["Response | AnswerResponse"]]


def routes(daemon: Daemon) -> list[Route]:
    """Return the routes that an OpenAI client uses, and the health check."""

    async def health(_: Request) -> Json[dict[str, object]]:
        told: dict[str, object] = {"status": "ok"}
        waits_for = daemon.waits_for()
        return json_response(told | ({"waits_for": waits_for} if waits_for else {}))

    async def models(_: Request) -> Json[dict[str, object]]:
        listed = await list_models(daemon)
        ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"], "has_more": False}
        return json_response({"object": "list", "data": listed} | ends)

    async def model(request: Request) -> Json[dict[str, object]] | Response:
        name = request.path_params["name"]
        found = [one for one in await list_models(daemon) if one["id"] == name]
        return (
            json_response(found[0])
            if found
            else problem_response(
                Problem(404, "model_not_found", f"no model {name!r} is known here", "model")
            )
        )

    return [
        Route("/healthz", health),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route(
            "/v1/chat/completions",
            noting(ChatBody, answering(daemon, chat=True)),
            methods=["POST"],
        ),
        Route(
            "/v1/completions",
            noting(TextBody, answering(daemon, chat=False)),
            methods=["POST"],
        ),
    ]


async def list_models(daemon: Lists) -> list[dict[str, object]]:
    """List the bare base, then every adapter held here or heard of, as OpenAI and Anthropic do."""
    listed = [_model("base", "lorikeet")]
    for one in await daemon.adapters():
        listed.append(_model(one.name, one.creator) | {"lorikeet": msgspec.to_builtins(one)})
    return listed


def _model(name: str, owner: str) -> dict[str, object]:
    """Describe one model; nothing is known of when it was made."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": owner,
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
    }


def answering(daemon: Daemon, *, chat: bool) -> Endpoint:
    """Return an endpoint that reads a body and answers it."""

    async def endpoint(request: Request) -> Response | AnswerResponse:
        try:
            asked = parse(await request.body(), chat=chat)
        except BadField as error:
            return problem_response(Problem(400, "bad_request", str(error), error.field))
        prefix = "chatcmpl-" if chat else "cmpl-"
        return AnswerResponse(
            daemon, asked, AnswerShape(asked, prefix + secrets.token_hex(12), int(time.time()))
        )

    return endpoint


@dataclass(frozen=True)
class AnswerResponse:
    """The answers to one request on their way: an ASGI response whose status waits for the daemon's
    first event.
    """

    media_types: ClassVar = (Json.media_type, EVENT_STREAM)
    daemon: Answers
    asked: Asked
    shape: AnswerShape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves first."""
        await until_left(receive, partial(self._answer, scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = EventStream(send)
        choices = [Choice(number) for number in range(len(self.asked.requests))]
        problem = await self._fill(choices, stream, scope)
        if problem is not None and stream.begun:
            await stream.fail(problem)
        elif problem is not None:
            await problem_response(problem)(scope, receive, send)
        elif self.asked.stream:
            await stream.send(*self.shape.usage(choices))
            await stream.end()
        else:
            await json_response(self.shape.whole(choices))(scope, receive, send)

    async def _fill(
        self, choices: list[Choice], stream: EventStream, asking: Scope
    ) -> Problem | None:
        """Run all answers side by side, MAX_AT_ONCE of them; the first that fails ends the
        others.
        """
        problems: list[Problem] = []
        limit = trio.CapacityLimiter(MAX_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for choice in choices:
                await limit.acquire_on_behalf_of(choice.number)
                asked = in_trace(self.asked.requests[choice.number], asking)
                make = partial(self._make, scope=nursery.cancel_scope, limit=limit)
                nursery.start_soon(make, choice, asked, stream, problems)
        return problems[0] if problems else None

    async def _make(
        self,
        choice: Choice,
        asked: CompletionRequest,
        stream: EventStream,
        problems: list[Problem],
        *,
        scope: trio.CancelScope,
        limit: trio.CapacityLimiter,
    ) -> None:
        try:
            async with self.daemon.complete(asked) as events:
                async for event in events:
                    chunks = self._take(choice, event)
                    if self.asked.stream and chunks:
                        await stream.send(*chunks)
        except NodeError as error:
            problems.append(problem_of(error))
            scope.cancel()
        finally:
            limit.release_on_behalf_of(choice.number)

    def _take(self, choice: Choice, event: CompletionEvent) -> list[dict[str, Any]]:
        """Record one event of one answer; return the chunks that a stream sends for it."""
        if isinstance(event, Started):
            choice.started = event
            return self.shape.opening(choice)
        if isinstance(event, Delta):
            choice.take(event)
            return self.shape.more(choice, event) if self.asked.stream else []
        if isinstance(event, CallDelta):
            choice.take_call(event)
            return self.shape.calling(choice, event)
        if isinstance(event, Continued):
            choice.continued.append(event)  # told at the end: the text goes on as it would have
            return []
        choice.ended = event
        return self.shape.closing(choice)


class EventStream:
    """Server-sent events on one response; the headers leave with the first event."""

    def __init__(self, send: Send) -> None:
        self._stream = ByteStream(send, EVENT_STREAM)
        self._turn = trio.Lock()

    @property
    def begun(self) -> bool:
        """Return whether the status has left."""
        return self._stream.begun

    async def send(self, *chunks: object) -> None:
        """Send one event per chunk; several tasks may call it, and their events do not mix."""
        async with self._turn:
            await self._stream.send(b"".join(map(_event, chunks)))

    async def end(self) -> None:
        """Send the mark that all was sent."""
        await self._stream.end(b"data: [DONE]\n\n")

    async def fail(self, problem: Problem) -> None:
        """Send that the rest will not come; the status has already left."""
        await self._stream.end(_event(problem.as_json()))


def _event(chunk: object) -> bytes:
    return b"data: " + json_line(chunk) + b"\n\n"

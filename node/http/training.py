"""Serves `/lorikeet/v1/runs`: what the command line and a page ask about trainings.

What takes long tells how far it is, and a run how it goes on, as server-sent events. Stands behind
the guard like every route that signs or spends. Decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..api.daemon import Daemon
from ..api.datanets import PathSaid
from ..api.training import (
    ChatBegun,
    ChatSaid,
    ChatText,
    ChatWord,
    EvaluationInfo,
    InfluenceInfo,
    InfluenceSaid,
    MergeSaid,
    PublishSaid,
    RecipeInfo,
    RunInfo,
    RunsBesideInfo,
    StartSaid,
    VerifySaid,
    Watched,
)
from ..errors import NodeError
from .control import PREFIX, reporting
from .datanets import Told, event
from .face import EVENT_STREAM, ByteStream
from .leaving import until_left
from .problems import Json, json_response, problem_of, problem_response
from .taking import asking, taking


class AskBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST ask: pause, or finish, which ends it here and keeps what it has learnt."""

    wanted: Literal["pause", "finish"]


class AgainBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST again: a recipe like the run's, for a run of another name."""

    name: str


class CompareBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST compare."""

    runs: tuple[str, ...]


class EventsQuery(msgspec.Struct, frozen=True):
    """GET events. `after`: the number of the last event that is known already."""

    after: int = 0


class ExportBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST export. `folder` is an absolute path on this machine, of nothing that is there."""

    folder: PathSaid


def routes(daemon: Daemon) -> list[Route]:
    """Return one route per question, each a single call of `Training`."""

    async def listing(_request: Request) -> Json[list[RunInfo]]:
        return json_response(await daemon.training.listing())

    async def show(request: Request) -> Json[Watched]:
        return json_response(await daemon.training.show(name_of(request)))

    async def check(_: Request, said: StartSaid) -> Told:
        return Told(partial(daemon.training.check, said))

    async def start(_: Request, said: StartSaid) -> Told:
        return Told(partial(daemon.training.start, said))

    async def resume(request: Request) -> Json[RunInfo]:
        return json_response(await daemon.training.resume(name_of(request)))

    async def ask(request: Request, body: AskBody) -> Json[RunInfo]:
        return json_response(await daemon.training.ask(name_of(request), body.wanted))

    async def evaluation(request: Request) -> Json[EvaluationInfo]:
        return json_response(await daemon.training.evaluation(name_of(request)))

    async def publish(request: Request, said: PublishSaid) -> Told:
        return Told(partial(daemon.training.publish, name_of(request), said))

    async def again(request: Request, body: AgainBody) -> Json[RecipeInfo]:
        return json_response(await daemon.training.again(name_of(request), body.name))

    async def verify(_: Request, said: VerifySaid) -> Told:
        return Told(partial(daemon.training.verify, said))

    async def delete(request: Request) -> Json[dict[str, object]]:
        await daemon.training.delete(name_of(request))
        return json_response({})

    async def chat(request: Request, said: ChatSaid) -> Chatting:
        return Chatting(daemon, name_of(request), said)

    async def events(request: Request, query: EventsQuery) -> Watching:
        await daemon.training.show(name_of(request))  # says so if there is none
        return Watching(partial(daemon.training.watch, name_of(request), query.after))

    async def compare(_: Request, body: CompareBody) -> Json[RunsBesideInfo]:
        return json_response(await daemon.training.compare(body.runs))

    async def export(request: Request, body: ExportBody) -> Json[dict[str, object]]:
        await daemon.training.export(name_of(request), Path(body.folder))
        return json_response({})

    async def merge(_: Request, said: MergeSaid) -> Told:
        return Told(partial(daemon.training.merge, said))

    async def influence(request: Request) -> Json[InfluenceInfo]:
        return json_response(await daemon.training.influence(name_of(request)))

    async def measure(request: Request, said: InfluenceSaid) -> Json[InfluenceInfo]:
        return json_response(await daemon.training.measure(name_of(request), said))

    async def stop_measuring(request: Request) -> Json[InfluenceInfo]:
        return json_response(await daemon.training.stop_measuring(name_of(request)))

    async def influence_events(request: Request) -> Watching:
        await daemon.training.show(name_of(request))  # says so if there is none
        return Watching(partial(daemon.training.watch_influence, name_of(request)))

    one = f"{PREFIX}/runs/{{run}}"
    return [
        Route(f"{PREFIX}/runs", reporting(listing)),
        Route(f"{PREFIX}/runs/check", reporting(taking(StartSaid, check)), methods=["POST"]),
        Route(f"{PREFIX}/runs/compare", reporting(taking(CompareBody, compare)), methods=["POST"]),
        Route(f"{PREFIX}/merges", reporting(taking(MergeSaid, merge)), methods=["POST"]),
        Route(f"{PREFIX}/runs/start", reporting(taking(StartSaid, start)), methods=["POST"]),
        Route(f"{PREFIX}/runs/verify", reporting(taking(VerifySaid, verify)), methods=["POST"]),
        Route(one, reporting(show)),
        Route(f"{one}/publish", reporting(taking(PublishSaid, publish)), methods=["POST"]),
        Route(f"{one}/again", reporting(taking(AgainBody, again)), methods=["POST"]),
        Route(f"{one}/evaluation", reporting(evaluation)),
        Route(one, reporting(delete), methods=["DELETE"]),
        Route(f"{one}/chat", reporting(taking(ChatSaid, chat)), methods=["POST"]),
        Route(f"{one}/export", reporting(taking(ExportBody, export)), methods=["POST"]),
        Route(f"{one}/events", reporting(asking(EventsQuery, events))),
        Route(f"{one}/influence", reporting(influence)),
        Route(f"{one}/influence", reporting(taking(InfluenceSaid, measure)), methods=["POST"]),
        Route(f"{one}/influence/events", reporting(influence_events)),
        Route(f"{one}/influence/stop", reporting(stop_measuring), methods=["POST"]),
        Route(f"{one}/resume", reporting(resume), methods=["POST"]),
        Route(f"{one}/ask", reporting(taking(AskBody, ask)), methods=["POST"]),
    ]


def name_of(request: Request) -> str:
    """Return the run that a path names."""
    return str(request.path_params["run"])


Watch = Callable[[], AbstractAsyncContextManager[AsyncIterator[object]]]


class Watching(Response):
    """What goes on: an event for each word, until there is nothing more to tell."""

    media_type = EVENT_STREAM

    def __init__(self, watch: Watch) -> None:
        self.status_code = 200
        self.background = None
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell, unless the client leaves first."""
        await until_left(receive, partial(self._run, send))

    async def _run(self, send: Send) -> None:
        stream = ByteStream(send, EVENT_STREAM)
        async with self._watch() as words:
            async for word in words:
                await stream.send(event(msgspec.to_builtins(word)))
        await stream.end(event({"end": True}))


class Chatting(Response):
    """A checkpoint's answer: an event for each word; its status waits for the first."""

    media_type = EVENT_STREAM

    def __init__(self, daemon: Daemon, name: str, said: ChatSaid) -> None:
        self.status_code = 200
        self.background = None
        self._daemon = daemon
        self._name = name
        self._said = said

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves first."""
        await until_left(receive, partial(self._run, scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = ByteStream(send, EVENT_STREAM)
        try:
            async with self._daemon.training.chat(self._name, self._said) as words:
                async for word in words:
                    await stream.send(event({_kind(word): msgspec.to_builtins(word)}))
        except NodeError as error:
            problem = problem_of(error)
            if stream.begun:
                await stream.end(event(problem.as_json()))
            else:
                await problem_response(problem)(scope, receive, send)
            return
        await stream.end(event({"end": True}))


def _kind(word: ChatWord) -> str:
    if isinstance(word, ChatBegun):
        return "begun"
    return "text" if isinstance(word, ChatText) else "ended"

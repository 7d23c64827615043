"""Serves `/lorikeet/v1/datanets`: what the command line and a page ask about datanets.

What takes long tells how far it is, as server-sent events.

Stands behind the guard like every route that signs or spends. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..api.daemon import Daemon
from ..api.datanets import (
    CharterChange,
    CharterSaid,
    ContributionInfo,
    DatanetDetail,
    DatanetInfo,
    DroppedInfo,
    DropSaid,
    GiveSaid,
    LeftInfo,
    PathSaid,
    PersonInfo,
    Progress,
    Tell,
    WithdrawnInfo,
)
from ..errors import NodeError
from .control import PREFIX, reporting
from .face import EVENT_STREAM, ByteStream, json_line
from .leaving import until_left
from .problems import Json, json_response, problem_of, problem_response
from .taking import asking, noting, taking

MAX_UNSENT = 16  # words of progress; more are dropped while the client is slow

Operation = Callable[[Tell], Awaitable[object]]


class JoinBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST join. `token` is an invite, or the digest of an open datanet."""

    token: str
    name: str = ""


class InviteBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST invite."""

    uses: int = 1
    days: float = 7.0


class JudgeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST judge. `decision` is accept, refuse or hold; the others are the reason."""

    subject: str
    decision: str
    code: str = ""
    detail: str = ""
    mend: str = ""


class AppointBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST appoint. `role` is member, curator or barred."""

    person: str
    role: str


class SubjectBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST withdraw."""

    contribution: str


class ExportBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST export. `folder` is an absolute path on this machine; `version` null is the last."""

    folder: PathSaid
    version: int | None = None


class RecoverBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST recover. `is_enough`: go on from what there is."""

    is_enough: bool = False


def routes(daemon: Daemon) -> list[Route]:
    """Return one route per question, each a single call of `Datanets`."""

    async def listing(_: Request) -> Json[list[DatanetInfo]]:
        return json_response(daemon.datanets.listing())

    async def create(_: Request, said: CharterSaid) -> Json[DatanetInfo]:
        return json_response(await daemon.datanets.create(said))

    async def join(_: Request, body: JoinBody) -> Json[DatanetInfo]:
        return json_response(await daemon.datanets.join(body.token, body.name))

    async def show(request: Request) -> Json[DatanetDetail]:
        return json_response(await daemon.datanets.show(name_of(request)))

    async def invite(request: Request, body: InviteBody) -> Json[dict[str, str]]:
        token = await daemon.datanets.invite(name_of(request), body.uses, body.days)
        return json_response({"token": token})

    async def give(request: Request, said: GiveSaid) -> Told:
        return Told(partial(daemon.datanets.give, name_of(request), said))

    async def drop(request: Request, said: DropSaid) -> Json[DroppedInfo]:
        return json_response(await daemon.datanets.drop(said, await request.body()))

    async def queue(request: Request) -> Told:
        return Told(partial(daemon.datanets.queue, name_of(request)))

    async def text(request: Request) -> Text:
        contribution = request.path_params["contribution"]
        found = await daemon.datanets.text(name_of(request), contribution)
        return Text(found, headers=NO_SNIFFING)

    async def judge(request: Request, body: JudgeBody) -> Json[ContributionInfo]:
        reason = (body.code, body.detail, body.mend)
        found = await daemon.datanets.judge(name_of(request), body.subject, body.decision, reason)
        return json_response(found)

    async def appoint(request: Request, body: AppointBody) -> Json[PersonInfo]:
        return json_response(
            await daemon.datanets.appoint(name_of(request), body.person, body.role)
        )

    async def version(request: Request) -> Response:
        return json_response(await daemon.datanets.make_version(name_of(request)))

    async def charter(request: Request, said: CharterChange) -> Json[DatanetInfo]:
        return json_response(await daemon.datanets.change_charter(name_of(request), said))

    async def withdraw(request: Request, body: SubjectBody) -> Json[WithdrawnInfo]:
        return json_response(await daemon.datanets.withdraw(name_of(request), body.contribution))

    async def leave(request: Request) -> Json[LeftInfo]:
        return json_response(await daemon.datanets.leave(name_of(request)))

    async def export(request: Request, body: ExportBody) -> Told:
        folder = Path(body.folder)
        return Told(partial(daemon.datanets.export, name_of(request), body.version, folder))

    async def verify(request: Request) -> Told:
        return Told(partial(daemon.datanets.verify, name_of(request)))

    async def recover(request: Request, body: RecoverBody) -> Told:
        return Told(partial(daemon.datanets.recover, name_of(request), body.is_enough))

    one = f"{PREFIX}/datanets/{{datanet}}"
    tells = {
        "invite": taking(InviteBody, invite),
        "give": taking(GiveSaid, give),
        "queue": queue,
        "judge": taking(JudgeBody, judge),
        "appoint": taking(AppointBody, appoint),
        "version": version,
        "charter": taking(CharterChange, charter),
        "withdraw": taking(SubjectBody, withdraw),
        "leave": leave,
        "export": taking(ExportBody, export),
        "verify": verify,
        "recover": taking(RecoverBody, recover),
    }
    return [
        Route(f"{PREFIX}/datanets", reporting(listing)),
        Route(f"{PREFIX}/datanets", reporting(taking(CharterSaid, create)), methods=["POST"]),
        Route(f"{PREFIX}/datanets/join", reporting(taking(JoinBody, join)), methods=["POST"]),
        Route(
            f"{PREFIX}/dropped", reporting(noting(bytes, asking(DropSaid, drop))), methods=["POST"]
        ),
        Route(one, reporting(show)),
        Route(f"{one}/texts/{{contribution}}", reporting(text)),
        *(
            Route(f"{one}/{path}", reporting(endpoint), methods=["POST"])
            for path, endpoint in tells.items()
        ),
    ]


class Text(Response):
    """Words that somebody gave."""

    media_type = "text/plain; charset=utf-8"


NO_SNIFFING = {"x-content-type-options": "nosniff", "content-disposition": "attachment"}
"""A stranger's text is shown as text, whatever it looks like."""


def name_of(request: Request) -> str:
    """Return the datanet that a path names."""
    return str(request.path_params["datanet"])


class Told(Response):
    """An operation on its way: progress as events, then its result or why there is none."""

    media_type = EVENT_STREAM

    def __init__(self, operation: Operation) -> None:
        self.status_code = 200
        self.background = None
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run it, unless the client leaves first."""
        await until_left(receive, partial(self._run, scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = ByteStream(send, EVENT_STREAM)
        put, get = trio.open_memory_channel[Progress](MAX_UNSENT)
        outcome = Outcome()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._operate, put, outcome)
            async with get:
                async for progress in get:
                    await stream.send(event({"progress": msgspec.to_builtins(progress)}))
        if outcome.error is None:
            await stream.end(event({"result": msgspec.to_builtins(outcome.result)}))
        elif stream.begun:
            await stream.end(event(problem_of(outcome.error).as_json()))
        else:
            await problem_response(problem_of(outcome.error))(scope, receive, send)

    async def _operate(self, put: trio.MemorySendChannel[Progress], outcome: Outcome) -> None:
        def tell(progress: Progress) -> None:
            try:
                put.send_nowait(progress)
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the next one says more, or nobody listens any more

        async with put:
            try:
                outcome.result = await self._operation(tell)
            except NodeError as error:
                outcome.error = error


@dataclass
class Outcome:
    """What became of an operation."""

    result: object = None
    error: NodeError | None = None


def event(value: Mapping[str, object]) -> bytes:
    """Write one server-sent event."""
    return b"data: " + json_line(value) + b"\n\n"

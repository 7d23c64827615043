"""Serves the `/lorikeet/v1` routes: what the command line asks of its daemon, as JSON forms of
`node.api`'s values.

Decides nothing.
"""

from __future__ import annotations

from functools import partial, wraps
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..api.adapters import (
    AdapterInfo,
    ArrivingInfo,
    FoundInfo,
    HeldInfo,
    PullReport,
    PushTold,
    SearchRequest,
    ShownInfo,
    VersionInfo,
)
from ..api.daemon import Daemon
from ..api.datanets import ABSOLUTE, ABSOLUTE_OR_EMPTY, PathSaid
from ..api.doctor import Checked
from ..api.governance import GovernanceInfo, SimulationInfo
from ..api.money import ChannelInfo, EarningsInfo, ReceiptInfo, StuckInfo, WhyInfo
from ..api.status import BannedInfo, BaseInfo, LogInfo, PeerInfo, StatusInfo
from ..api.traces import Trace
from ..api.verifying import AttestationInfo, AuditInfo, AuditSaid, RecheckInfo, VerifyInfo
from ..errors import NodeError
from ..metrics import CONTENT_TYPE
from .leaving import unless_left
from .problems import (
    Json,
    Msgpack,
    Octets,
    Problem,
    json_response,
    problem_of,
    problem_response,
)
from .taking import Endpoint, asking, noting, taking

PREFIX = "/lorikeet/v1"


class PullBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST pull, POST unpin, POST show."""

    model: str


class PushBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST push. `folder` and the creator's `key` are absolute paths on this machine."""

    folder: PathSaid
    key: PathSaid | None = None
    told: PushTold = PushTold()
    in_place: bool = False


class FindBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST find and POST recheck. `path` is an absolute path on this machine."""

    path: PathSaid


class VersionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST rollback and POST retract. `version` is NAME@VERSION; `key` as in push."""

    version: str
    key: PathSaid | None = None


class BanBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST ban. `peer` is a peer id, `why` a note to oneself."""

    peer: str
    why: str = ""


class UnbanBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST unban."""

    peer: str


class WithdrawBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST withdraw. `channel` is an id in hex; null: all channels."""

    channel: str | None


class VerifyQuery(msgspec.Struct, frozen=True):
    """GET verify. `opened`: the attestation shows question and answer."""

    opened: bool = False


class Metrics(Response):
    """What Prometheus reads."""

    media_type = CONTENT_TYPE


class Text(Response):
    """What people read."""

    media_type = "text/plain"


def routes(daemon: Daemon) -> list[Route]:
    """Return one route per question, each a single call of `Daemon`."""

    async def status(_: Request) -> Json[StatusInfo]:
        return json_response(await daemon.status())

    async def metrics(_: Request) -> Metrics:
        return Metrics(await daemon.metrics())

    async def log(_: Request) -> Json[LogInfo]:
        return json_response(daemon.log())

    async def traces(_: Request) -> Json[list[Trace]]:
        return json_response(daemon.traces())

    async def trace(request: Request) -> Json[Trace]:
        return json_response(daemon.trace(request.path_params["id"]))

    async def checkup(_: Request) -> Json[list[Checked]]:
        return json_response(await daemon.checkup())

    async def report(request: Request) -> Text:
        return Text(await unless_left(request, daemon.report))

    async def adapters(_: Request) -> Json[list[AdapterInfo]]:
        return json_response(await daemon.adapters())

    async def held(_: Request) -> Json[list[HeldInfo]]:
        return json_response(daemon.held())

    async def arriving(_: Request) -> Json[list[ArrivingInfo]]:
        return json_response(daemon.arriving())

    async def peers(_: Request) -> Json[list[PeerInfo]]:
        return json_response(daemon.peers())

    async def banned(_: Request) -> Json[list[BannedInfo]]:
        return json_response(daemon.banned())

    async def ban(_: Request, body: BanBody) -> Json[list[BannedInfo]]:
        return json_response(await daemon.ban(body.peer, body.why))

    async def unban(_: Request, body: UnbanBody) -> Json[list[BannedInfo]]:
        return json_response(daemon.unban(body.peer))

    async def receipts(_: Request) -> Json[list[ReceiptInfo]]:
        return json_response(await daemon.receipts())

    async def receipt(request: Request) -> Msgpack:
        return Msgpack(await daemon.receipt(request.path_params["digest"]))

    async def why(request: Request) -> Json[WhyInfo]:
        return json_response(await daemon.why(request.path_params["digest"]))

    async def verify_answer(request: Request, query: VerifyQuery) -> Json[VerifyInfo]:
        digest = request.path_params["digest"]
        return json_response(await daemon.verify_answer(digest, opened=query.opened))

    async def recompute(request: Request) -> Json[VerifyInfo]:
        return json_response(await daemon.recompute(await request.body()))

    async def audit(_: Request, body: AuditSaid) -> Json[AuditInfo]:
        return json_response(await daemon.audit(body))

    async def recheck(_: Request, body: FindBody) -> Json[RecheckInfo]:
        return json_response(await daemon.recheck(Path(body.path)))

    async def attestations(_: Request) -> Json[list[AttestationInfo]]:
        return json_response(daemon.attestations())

    async def block(request: Request) -> Octets:
        return Octets(await daemon.block(request.path_params["digest"]))

    async def earnings(_: Request) -> Json[list[EarningsInfo]]:
        return json_response(await daemon.earnings())

    async def stuck(_: Request) -> Json[list[StuckInfo]]:
        return json_response(await daemon.stuck())

    async def governance(_: Request) -> Json[GovernanceInfo]:
        return json_response(await daemon.governance())

    async def simulation(request: Request) -> Json[SimulationInfo]:
        number = request.path_params["number"]
        return json_response(await unless_left(request, partial(daemon.simulate, number)))

    async def channels(_: Request) -> Json[list[ChannelInfo]]:
        return json_response(await daemon.channels())

    async def withdraw(_: Request, body: WithdrawBody) -> Json[list[ChannelInfo]]:
        return json_response(await daemon.withdraw(body.channel))

    async def base(_: Request) -> Json[BaseInfo]:
        return json_response(daemon.base())

    async def base_card(_: Request) -> Msgpack:
        return Msgpack(daemon.base_card())

    async def pull(request: Request, body: PullBody) -> Json[PullReport]:
        return json_response(await unless_left(request, partial(daemon.pull, body.model)))

    async def unpin(_: Request, body: PullBody) -> Json[AdapterInfo]:
        return json_response(await daemon.unpin(body.model))

    async def show(_: Request, body: PullBody) -> Json[ShownInfo]:
        return json_response(await daemon.show(body.model))

    async def push(_: Request, body: PushBody) -> Json[AdapterInfo]:
        folder = Path(body.folder)
        info = await daemon.push(folder, key_of(body), body.told, in_place=body.in_place)
        return json_response(info)

    async def find(_: Request, body: FindBody) -> Json[list[FoundInfo]]:
        return json_response(await daemon.find_on_disk(Path(body.path)))

    async def search(_: Request, body: SearchRequest) -> Json[list[AdapterInfo]]:
        return json_response(await daemon.search(body))

    async def versions(request: Request) -> Json[list[VersionInfo]]:
        return json_response(await daemon.versions(request.path_params["name"]))

    async def rollback(_: Request, body: VersionBody) -> Json[list[VersionInfo]]:
        return json_response(await daemon.roll_back(body.version, key_of(body)))

    async def retract(_: Request, body: VersionBody) -> Json[list[VersionInfo]]:
        return json_response(await daemon.retract(body.version, key_of(body)))

    asks: dict[str, Endpoint] = {
        "status": status,
        "checkup": checkup,
        "report": report,
        "log": log,
        "traces": traces,
        "traces/{id}": trace,
        "metrics": metrics,
        "adapters": adapters,
        "held": held,
        "arriving": arriving,
        "peers": peers,
        "banned": banned,
        "receipts": receipts,
        "receipts/{digest}": receipt,
        "why/{digest}": why,
        "verify/{digest}": asking(VerifyQuery, verify_answer),
        "attestations": attestations,
        "blocks/{digest}": block,
        "earnings": earnings,
        "stuck": stuck,
        "channels": channels,
        "governance": governance,
        "governance/{number}/simulation": simulation,
        "base": base,
        "base/card": base_card,
        "versions/{name:path}": versions,
    }
    tells: dict[str, Endpoint] = {
        "pull": taking(PullBody, pull),
        "ban": taking(BanBody, ban),
        "unban": taking(UnbanBody, unban),
        "unpin": taking(PullBody, unpin),
        "show": taking(PullBody, show),
        "push": taking(PushBody, push),
        "find": taking(FindBody, find),
        "search": taking(SearchRequest, search),
        "rollback": taking(VersionBody, rollback),
        "retract": taking(VersionBody, retract),
        "withdraw": taking(WithdrawBody, withdraw),
        "verify": noting(bytes, recompute),
        "audit": taking(AuditSaid, audit),
        "recheck": taking(FindBody, recheck),
    }
    return [
        Route("/metrics", reporting(metrics)),
        *(Route(f"{PREFIX}/{path}", reporting(endpoint)) for path, endpoint in asks.items()),
        *(
            Route(f"{PREFIX}/{path}", reporting(endpoint), methods=["POST"])
            for path, endpoint in tells.items()
        ),
    ]


def key_of(body: PushBody | VersionBody) -> Path | None:
    """Return the creator's key file that a body names."""
    return None if body.key is None else Path(body.key)


def reporting(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint whose errors become problems with a status."""

    @wraps(endpoint)
    async def wrapped(request: Request) -> Response:
        try:
            return await endpoint(request)
        except NodeError as error:
            return problem_response(problem_of(error))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            told = f"the body is not what this route takes: {in_words(error)}"
            return problem_response(Problem(400, "bad_request", told, "body"))

    return wrapped


def in_words(error: Exception) -> str:
    """Return what is wrong with a body; of a path, which people type, without a pattern."""
    told = str(error)
    for pattern in (ABSOLUTE, ABSOLUTE_OR_EMPTY):
        told = told.replace(f"Expected `str` matching regex {pattern!r}", "Say an absolute path")
    return told

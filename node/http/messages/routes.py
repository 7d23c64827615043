"""Serves Anthropic's /v1/messages over a daemon, and the counting of a message's tokens.

Does not know how a body is read (body.py) or an answer shaped (shape.py).
"""

from __future__ import annotations

import secrets

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...api.daemon import Daemon
from ...errors import NodeError
from ..face import FaceResponse
from ..fields import BadField
from ..problems import Json, Problem, json_response, problem_of
from ..taking import noting
from .body import Body, parse
from .shape import MessageFace, refusal


def routes(daemon: Daemon) -> list[Route]:
    """Return both routes."""

    async def create(request: Request) -> Response | FaceResponse:
        try:
            asked = parse(await request.body())
        except BadField as error:
            return bad_request(error)
        face = MessageFace(f"msg_{secrets.token_hex(12)}", asked.request.model)
        return FaceResponse(daemon, asked.request, face, asked.stream)

    async def count(request: Request) -> Json[dict[str, object]] | Response:
        try:
            asked = parse(await request.body(), counts=True)
            tokens = await daemon.count_tokens(asked.request)
        except BadField as error:
            return bad_request(error)
        except NodeError as error:
            return refusal(problem_of(error))
        return json_response({"input_tokens": tokens})

    return [
        Route("/v1/messages", noting(Body, create), methods=["POST"]),
        Route("/v1/messages/count_tokens", noting(Body, count), methods=["POST"]),
    ]


def bad_request(error: BadField) -> Response:
    """Return Anthropic's error for a body at fault."""
    return refusal(Problem(400, "bad_request", str(error), error.field))

"""Serves /v1/responses over a daemon: create, get, delete, list what was asked, count tokens.

Does not know how a body is read (body.py), an answer shaped (shape.py) or remembered (store.py).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...api.daemon import Daemon
from ...errors import NodeError
from ..face import FaceResponse
from ..fields import BadField
from ..problems import Json, Problem, json_response, problem_of, problem_response
from ..taking import noting
from .body import Body, parse
from .shape import ResponseFace
from .store import ResponseStore, lost


def routes(daemon: Daemon, store: ResponseStore) -> list[Route]:
    """Return all routes; what is remembered lies in `store`."""

    async def create(request: Request) -> Response | FaceResponse:
        try:
            asked = parse(await request.body(), store)
        except BadField as error:
            return bad_request(error)
        response_id = f"resp_{secrets.token_hex(24)}"
        face = ResponseFace(asked, response_id, lambda: int(time.time()), store.keep)
        return FaceResponse(daemon, asked.request, face, bool(asked.body.stream))

    async def count(request: Request) -> Json[dict[str, object]] | Response:
        try:
            asked = parse(await request.body(), store)
            tokens = await daemon.count_tokens(asked.request)
        except BadField as error:
            return bad_request(error)
        except NodeError as error:
            return problem_response(problem_of(error))
        return json_response({"object": "response.input_tokens", "input_tokens": tokens})

    async def get(request: Request) -> Json[Mapping[str, object]] | Response:
        found = store.find(request.path_params["id"])
        return json_response(found.response) if found else not_found(request)

    async def delete(request: Request) -> Json[dict[str, object]] | Response:
        response_id = request.path_params["id"]
        if not store.forget(response_id):
            return not_found(request)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def input_items(request: Request) -> Json[dict[str, object]] | Response:
        found = store.find(request.path_params["id"])
        if found is None:
            return not_found(request)
        items = [
            {"id": f"in_{at}", "status": "completed", "type": "message"} | dict(item)
            for at, item in enumerate(found.items)
        ]
        return json_response(listed(items))

    return [
        Route("/v1/responses", noting(Body, create), methods=["POST"]),
        Route("/v1/responses/input_tokens", noting(Body, count), methods=["POST"]),
        Route("/v1/responses/{id}", get, methods=["GET"]),
        Route("/v1/responses/{id}", delete, methods=["DELETE"]),
        Route("/v1/responses/{id}/input_items", input_items, methods=["GET"]),
    ]


def bad_request(error: BadField) -> Response:
    """Return OpenAI's error for a body at fault."""
    is_lost = error.field == "previous_response_id"
    code = "previous_response_not_found" if is_lost else "bad_request"
    return problem_response(Problem(400, code, str(error), error.field))


def not_found(request: Request) -> Response:
    """Return OpenAI's error for a response that is not remembered."""
    told = lost(f"response {request.path_params['id']!r}")
    return problem_response(Problem(404, "not_found", told, "response_id"))


def listed(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return OpenAI's list, all of it on one page, the newest first."""
    newest = items[::-1]
    return {
        "object": "list",
        "data": newest,
        "first_id": newest[0]["id"] if newest else None,
        "last_id": newest[-1]["id"] if newest else None,
        "has_more": False,
    }

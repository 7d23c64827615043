"""Endpoints that say what they take: `/openapi.json` is written from the code that reads it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

Endpoint = Callable[[Request], Awaitable[Response]]
Body = TypeVar("Body")
Asked = TypeVar("Asked", bound=Callable[..., object])
NOTE = "takes"


def taking(kind: type[Body], endpoint: Callable[[Request, Body], Awaitable[Response]]) -> Endpoint:
    """Return an endpoint that reads its body as JSON of that kind.

    It raises msgspec.DecodeError where the body is something else.
    """

    @wraps(endpoint)
    async def wrapped(request: Request) -> Response:
        return await endpoint(request, msgspec.json.decode(await request.body(), type=kind))

    return noting(kind, wrapped)


def noting(kind: object, endpoint: Asked) -> Asked:
    """Note what an endpoint takes that reads its body itself."""
    endpoint.__dict__[NOTE] = kind
    return endpoint


def taken_by(endpoint: object) -> object | None:
    """Return what kind of body an endpoint says it takes, None where it says nothing."""
    found: object | None = vars(endpoint).get(NOTE)
    return found

"""Endpoints that say what they take: `/openapi.json` is written from the code that reads it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..errors import BadRequest

Endpoint = Callable[[Request], Awaitable[Response]]
Body = TypeVar("Body")
Query = TypeVar("Query")
Asked = TypeVar("Asked", bound=Callable[..., object])
NOTE = "takes"
QUERY_NOTE = "asks"


def taking(kind: type[Body], endpoint: Callable[[Request, Body], Awaitable[Response]]) -> Endpoint:
    """Return an endpoint that reads its body as JSON of that kind.

    It raises msgspec.DecodeError where the body is something else.
    """

    @wraps(endpoint)
    async def wrapped(request: Request) -> Response:
        return await endpoint(request, msgspec.json.decode(await request.body(), type=kind))

    return noting(kind, wrapped)


def asking(
    kind: type[Query], endpoint: Callable[[Request, Query], Awaitable[Response]]
) -> Endpoint:
    """Return an endpoint that reads its query as that kind, one parameter for each field.

    It raises BadRequest where the query is something else.
    """

    @wraps(endpoint)
    async def wrapped(request: Request) -> Response:
        try:
            query = msgspec.convert(dict(request.query_params), kind, strict=False)
        except msgspec.ValidationError as error:
            raise BadRequest(f"the query is not what this route takes: {error}") from error
        return await endpoint(request, query)

    wrapped.__dict__[QUERY_NOTE] = kind
    return wrapped


def noting(kind: object, endpoint: Asked) -> Asked:
    """Note what an endpoint takes that reads its body itself."""
    endpoint.__dict__[NOTE] = kind
    return endpoint


def taken_by(endpoint: object) -> object | None:
    """Return what kind of body an endpoint says it takes, None where it says nothing."""
    found: object | None = vars(endpoint).get(NOTE)
    return found


def query_of(endpoint: object) -> object | None:
    """Return what kind of query an endpoint says it reads, None where it says nothing."""
    found: object | None = vars(endpoint).get(QUERY_NOTE)
    return found

"""Shows an error to an HTTP client as a status and OpenAI's error object.

Does not decide which status and code an error has: its class declares them (node/errors.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from starlette.responses import Response

from ..errors import BY_CODE, NodeError, NodeRefused

FAULT = 500
Value = TypeVar("Value")


@dataclass(frozen=True)
class Problem:
    """The reason why a request got no answer. `field` is the request's field at fault, if any."""

    status: int
    code: str
    message: str
    field: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "server_error"),
                "param": self.field,
                "code": self.code,
            }
        }


TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
}


def problem_of(error: NodeError) -> Problem:
    """Return the status and code of a daemon's error, as its class declares them."""
    if isinstance(error, NodeRefused):
        # If the client can fix what the node refused for, it gets the status that we would give;
        # the node's own faults are a bad gateway here.
        status = BY_CODE[error.code].status
        return Problem(error.status if status == FAULT else status, error.code, str(error))
    return Problem(error.status, error.http_code or error.code, str(error), error.field)


def problem_response(problem: Problem) -> Response:
    """Return the problem as a JSON response."""
    return json_response(problem.as_json(), problem.status)


class Json(Response, Generic[Value]):
    """A value of that type as JSON: `/openapi.json` tells what an endpoint says it returns."""

    media_type = "application/json"


class Msgpack(Response):
    """Signed bytes, as others take them."""

    media_type = "application/msgpack"


class Octets(Response):
    """Bytes of whatever kind."""

    media_type = "application/octet-stream"


def json_response(
    value: Value, status: int = 200, headers: Mapping[str, str] | None = None
) -> Json[Value]:
    """Return any plain value, struct or dataclass as JSON."""
    return Json(msgspec.json.encode(value), status, headers)

"""How an error looks to an HTTP client: a status and OpenAI's error object.

Pure tables; decides nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from .. import errors
from ..errors import NodeError


@dataclass(frozen=True)
class Problem:
    """Why a request got no answer. `field` is the request's field at fault, where one is."""

    status: int
    code: str
    message: str
    field: str | None = None

    def as_json(self) -> dict[str, Any]:
        """OpenAI's error object."""
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

# The first class that fits decides; children stand before their parents.
STATUS_OF: tuple[tuple[type[NodeError], int, str, str | None], ...] = (
    (errors.UnknownModel, 404, "model_not_found", "model"),
    (errors.BadRequest, 400, "bad_request", None),
    (errors.WrongBase, 400, "wrong_base", "model"),
    (errors.AdapterError, 400, "adapter_refused", "model"),
    (errors.NoEngine, 503, "no_engine", None),
    (errors.EngineLost, 503, "engine_lost", None),
    (errors.EngineBusy, 503, "busy", None),
    (errors.EngineError, 500, "engine_failed", None),
    (errors.NoProvider, 503, "no_provider", "model"),
    (errors.RemoteError, 502, "node_failed", None),
    (errors.NoChannel, 402, "no_channel", None),
    (errors.PaymentError, 402, "payment_required", None),
    (errors.ConfigError, 500, "misconfigured", None),
)

# What a remote node's refusal means here; its words are listed in docs/protocols/infer.md.
STATUS_OF_REFUSAL: Mapping[str, int] = {
    "bad_request": 400,
    "adapter_refused": 400,
    "wrong_base": 400,
    "unknown_adapter": 404,
    "payment_required": 402,
    "no_channel": 402,
    "busy": 503,
    "engine_lost": 503,
    "no_provider": 503,
}


def problem_of(error: NodeError) -> Problem:
    """The status and code of a daemon's error."""
    for kind, status, code, field in STATUS_OF:
        if isinstance(error, kind):
            if isinstance(error, errors.NodeRefused):
                return Problem(
                    STATUS_OF_REFUSAL.get(error.code, status), error.code, str(error), field
                )
            return Problem(status, code, str(error), field)
    return Problem(500, "internal", str(error))


def problem_response(problem: Problem) -> Response:
    """The problem as a JSON response."""
    return json_response(problem.as_json(), problem.status)


def json_response(value: object, status: int = 200) -> Response:
    """Any plain value, struct or dataclass as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")

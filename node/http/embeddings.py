"""Serves OpenAI's /v1/embeddings: reads a body, has it embedded, shapes the vectors.

Does not know how a text becomes a vector (node/answering/embedding.py).
"""

from __future__ import annotations

import base64
from array import array
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..api.answers import EmbeddingAnswer, EmbeddingRequest
from ..api.daemon import Daemon
from ..errors import NodeError
from .fields import BadField, convert, read_object, refuse_unknown
from .leaving import unless_left
from .problems import Json, Problem, json_response, problem_of, problem_response
from .taking import noting

MAX_INPUTS = 2048
MAX_DIMENSIONS = 1 << 20


class EmbeddingsBody(msgspec.Struct, frozen=True):
    """POST /v1/embeddings. `input` is one text, several, one text's token ids, or several's."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


def routes(daemon: Daemon) -> list[Route]:
    """Return the one route."""

    async def embeddings(request: Request) -> Json[dict[str, object]] | Response:
        try:
            body = parse(await request.body())
            asked = as_request(body)
            answer = await unless_left(request, lambda: daemon.embed(asked))
        except BadField as error:
            return problem_response(Problem(400, "bad_request", str(error), error.field))
        except NodeError as error:
            return problem_response(problem_of(error))
        return json_response(shape(answer, body.encoding_format or "float"))

    return [Route("/v1/embeddings", noting(EmbeddingsBody, embeddings), methods=["POST"])]


def parse(data: bytes) -> EmbeddingsBody:
    """Read one body. Raises BadField."""
    fields = read_object(data)
    refuse_unknown(fields, known=frozenset(EmbeddingsBody.__struct_fields__))
    return convert(fields, EmbeddingsBody)


def as_request(body: EmbeddingsBody) -> EmbeddingRequest:
    """Convert a checked body to the daemon's form. Raises BadField for a mixed input."""
    given = body.input
    inputs: list[Any]
    if isinstance(given, str):
        inputs = [given]
    elif all(isinstance(one, int) for one in given):
        inputs = [tuple(given)]
    elif all(isinstance(one, str) for one in given):
        inputs = list(given)
    elif all(isinstance(one, list) for one in given):
        inputs = [tuple(one) for one in given if isinstance(one, list)]
    else:
        raise BadField(
            "input", "input mixes texts and token ids; send either kind alone in one request"
        )
    if len(inputs) > MAX_INPUTS:
        raise BadField("input", f"input has {len(inputs)} texts; the limit is {MAX_INPUTS}")
    if () in inputs:
        raise BadField("input", "input has an empty list of token ids; each needs one at least")
    return EmbeddingRequest(body.model, tuple(inputs), body.dimensions)


def shape(answer: EmbeddingAnswer, encoding: Literal["float", "base64"]) -> dict[str, Any]:
    """Shape the vectors as OpenAI does, with our own facts beside them."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(vector, encoding)}
            for index, vector in enumerate(answer.vectors)
        ],
        "model": answer.model,
        "usage": {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens},
        "lorikeet": {
            "served_by": answer.served_by,
            "adapter": answer.model,
            "cid": answer.cid,
            "timings": dict(answer.timings_ms),
        },
    }


def encode(vector: bytes, encoding: Literal["float", "base64"]) -> str | list[float]:
    """Write little-endian float32 as base64 or as numbers."""
    if encoding == "base64":
        return base64.b64encode(vector).decode()
    return array("f", vector).tolist()

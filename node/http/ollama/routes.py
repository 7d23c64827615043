"""Serves Ollama's routes over a daemon.

Does not know how a body is read (body.py) or an answer shaped (shape.py).
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...api.daemon import Daemon
from ...errors import NodeError, UnknownModel
from ..face import FaceResponse
from ..fields import BadField
from ..leaving import unless_left
from ..problems import Json, Problem, json_response, problem_of
from ..taking import noting
from .body import (
    ChatBody,
    EmbedBody,
    GenerateBody,
    ShowBody,
    parse,
    parse_embed,
    parse_show,
)
from .shape import OllamaFace, ns, refusal, timestamp

VERSION = "0.12.0"
"""Of the API that is served: clients ask before they use what came later."""

Endpoint = Callable[[Request], Awaitable["Response | FaceResponse"]]


def routes(daemon: Daemon) -> list[Route]:
    """Return all routes."""

    async def version(_: Request) -> Json[dict[str, str]]:
        return json_response({"version": VERSION})

    async def tags(_: Request) -> Json[dict[str, object]]:
        return json_response({"models": await list_models(daemon)})

    async def show(request: Request) -> Json[dict[str, object]]:
        name = parse_show(await request.body())
        found = [one for one in await list_models(daemon) if one["name"] == name]
        if not found:
            raise UnknownModel(name)
        return json_response(shown(found[0]))

    async def embed(request: Request) -> Json[dict[str, object]]:
        asked = parse_embed(await request.body())
        answer = await unless_left(request, lambda: daemon.embed(asked))
        return json_response(
            {
                "model": answer.model,
                "embeddings": [array("f", vector).tolist() for vector in answer.vectors],
                "total_duration": ns(answer.timings_ms.get("total", 0.0)),
                "load_duration": 0,
                "prompt_eval_count": answer.prompt_tokens,
            }
        )

    return [
        Route("/api/version", guarded(version)),
        Route("/api/tags", guarded(tags)),
        Route("/api/show", noting(ShowBody, guarded(show)), methods=["POST"]),
        Route("/api/embed", noting(EmbedBody, guarded(embed)), methods=["POST"]),
        Route(
            "/api/chat", noting(ChatBody, guarded(answering(daemon, chat=True))), methods=["POST"]
        ),
        Route(
            "/api/generate",
            noting(GenerateBody, guarded(answering(daemon, chat=False))),
            methods=["POST"],
        ),
    ]


def answering(daemon: Daemon, *, chat: bool) -> Endpoint:
    """Return an endpoint that reads a body and answers it."""

    async def endpoint(request: Request) -> Response | FaceResponse:
        asked = parse(await request.body(), chat=chat)
        if asked.request is None:  # an empty prompt loads the model; here it is loaded when asked
            empty = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
            head = {"model": asked.model, "created_at": timestamp(time.time())}
            return json_response(head | empty | {"done": True, "done_reason": "load"})
        face = OllamaFace(asked.model, chat, time.time)
        return FaceResponse(daemon, asked.request, face, asked.stream)

    return endpoint


def guarded(endpoint: Endpoint) -> Endpoint:
    """Have an endpoint's errors answered in Ollama's shape."""

    @wraps(endpoint)
    async def safe(request: Request) -> Response | FaceResponse:
        try:
            return await endpoint(request)
        except BadField as error:
            return refusal(Problem(400, "bad_request", str(error), error.field))
        except NodeError as error:
            return refusal(problem_of(error))

    return safe


async def list_models(daemon: Daemon) -> list[dict[str, Any]]:
    """List the bare base, then every adapter held here or heard of, as Ollama lists models."""
    base = daemon.base()
    listed = [model_of("base", base.digest, base.size_bytes, base.name, base.format)]
    for one in await daemon.adapters():
        listed.append(model_of(one.name, one.cid, one.size_bytes, base.name))
    return listed


def model_of(
    name: str, digest: str, size_bytes: int, family: str, kind: str = "safetensors"
) -> dict[str, Any]:
    """Describe one model; nothing is known of when it was made."""
    details = {
        "parent_model": "",
        "format": kind,
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
    }
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(0),
        "size": size_bytes,
        "digest": digest,
        "details": details,
    }


def shown(model: dict[str, Any]) -> dict[str, Any]:
    """Describe one model at length, as far as that is known."""
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": model["details"],
        "model_info": {"general.architecture": model["details"]["family"]},
        "capabilities": ["completion", "tools", "embedding"],
        "modified_at": model["modified_at"],
    }

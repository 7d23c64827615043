"""Serves `/openapi.json`: every route of this daemon, written from the routes themselves and from
the types that their bodies are read as. Says nothing that no code says: answers have no schema.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .problems import json_response
from .taking import taken_by

PATH = "/openapi.json"
REFERENCE = "#/components/schemas/{name}"
OUR_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
OTHERS = ("/v1/messages", "/api/", "/hub/")
"""Where an error has the form of another make's API, as its clients expect."""


def openapi_route(routes: Sequence[Route]) -> Route:
    """Return the route of the document about these routes, and about itself."""

    async def openapi(_: Request) -> Response:
        return json_response(describe([*routes, own]))

    own = Route(PATH, openapi)
    return own


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document."""
    kinds = {taken_by(route.endpoint) for route in routes} - {None}
    ordered = sorted(kinds, key=str)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=REFERENCE)
    bodies = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = _operation(route, path, method, bodies)
    return {
        "openapi": "3.1.0",
        "info": {"title": "A Lorikeet node", "version": "1"},
        "paths": paths,
        "components": {"schemas": {**components, "Error": OUR_ERROR}},
    }


def _operation(route: Route, path: str, method: str, bodies: dict[Any, Any]) -> dict[str, Any]:
    failed: dict[str, Any] = {"description": "why not, and what to do"}
    if not path.startswith(OTHERS):
        schema = {"$ref": REFERENCE.format(name="Error")}
        failed["content"] = {"application/json": {"schema": schema}}
    told: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "responses": {"2XX": {"description": "done"}, "default": failed},
    }
    if route.param_convertors:
        told["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in route.param_convertors
        ]
    kind = taken_by(route.endpoint)
    if kind is not None:
        content = {"application/json": {"schema": bodies[kind]}}
        told["requestBody"] = {"required": True, "content": content}
    return told

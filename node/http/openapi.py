"""Serves `/openapi.json`: every route of this daemon, written from the routes themselves, from the
types that their bodies are read as, and from what their endpoints say they return.

Says nothing that no code says: an answer in another make's form has no schema.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from .problems import Json, Octets, json_response
from .taking import query_of, taken_by

PATH = "/openapi.json"
OPENAPI = "3.1.0"
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

    async def openapi(_: Request) -> Json[dict[str, Any]]:
        return json_response(describe([*routes, own]))

    own = Route(PATH, openapi)
    return own


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document."""
    kinds = {taken_by(route.endpoint) for route in routes}
    kinds |= {kind for route in routes for kind in given_by(route.endpoint).values()}
    ordered = sorted(kinds - {None, bytes}, key=str)
    schemas, components = msgspec.json.schema_components(
        ordered, schema_hook=anything, ref_template=REFERENCE
    )
    bodies = dict(zip(ordered, without_places(schemas), strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            told = _operation(route, path, method, bodies)
            paths.setdefault(path, {})[method.lower()] = told
    return {
        "openapi": OPENAPI,
        "info": {"title": "A Lorikeet node", "version": "1"},
        "paths": paths,
        "components": {"schemas": {**without_places(components), "Error": OUR_ERROR}},
    }


def _operation(route: Route, path: str, method: str, bodies: dict[Any, Any]) -> dict[str, Any]:
    failed: dict[str, Any] = {"description": "why not, and what to do"}
    if not path.startswith(OTHERS):
        schema = {"$ref": REFERENCE.format(name="Error")}
        failed["content"] = {"application/json": {"schema": schema}}
    told: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "responses": {"2XX": _done(given_by(route.endpoint), bodies), "default": failed},
    }
    parameters = [*_in_path(route), *_in_query(query_of(route.endpoint))]
    if parameters:
        told["parameters"] = parameters
    kind = taken_by(route.endpoint)
    if kind is not None:
        media_type = Octets.media_type if kind is bytes else Json.media_type
        content = {media_type: _body(kind, bodies)}
        told["requestBody"] = {"required": True, "content": content}
    return told


def _in_path(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in route.param_convertors
    ]


def _in_query(kind: object | None) -> list[dict[str, Any]]:
    """Describe each field of what a query is read as: plain values, so that no schema points
    elsewhere.
    """
    if kind is None:
        return []
    _, components = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    (schema,) = components.values()
    needed = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": one}
        for name, one in schema["properties"].items()
    ]


def _done(given: Mapping[str, object], bodies: Mapping[Any, Any]) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "done"}
    if given:
        done["content"] = {name: _body(kind, bodies) for name, kind in given.items()}
    return done


def _body(kind: object, bodies: Mapping[Any, Any]) -> dict[str, Any]:
    return {"schema": bodies[kind]} if kind in bodies else {}


def given_by(endpoint: Any) -> dict[str, object]:
    """Return the media types in which an endpoint says it answers, each with the kind of value that
    is written as it, None where that is not said.
    """
    hint = get_type_hints(inspect.unwrap(endpoint)).get("return")
    given: dict[str, object] = {}
    for one in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if get_origin(one) is Json:
            given[Json.media_type] = get_args(one)[0]
            continue
        alone = getattr(one, "media_type", None)
        for media_type in getattr(one, "media_types", filter(None, (alone,))):
            given.setdefault(media_type.partition(";")[0], None)
    return given


def without_places(schema: Any) -> Any:
    """Return a schema that says of tuples what is in them, not at which place: programs that read
    schemas know places in several ways, or in none.
    """
    if isinstance(schema, list | tuple):
        return [without_places(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    said = {name: without_places(one) for name, one in schema.items()}
    if "prefixItems" in said:
        places = said.pop("prefixItems")
        kinds = [one for at, one in enumerate(places) if one not in places[:at]]
        said["items"] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return said


def anything(kind: type) -> dict[str, Any]:
    """Return the schema of a type that msgspec has none for."""
    if kind is object:
        return {"description": "anything"}
    raise NotImplementedError(f"no schema is known for {kind}")

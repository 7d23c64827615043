"""Every route of a real daemon, whatever it is sent: no error of ours, each refusal in our form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from node.http.openapi import PATH, describe
from tests.node.faces import shown
from tests.node.http.raw import Reply, ask, request
from tests.node.networks import open_lab
from tests.node.tiny import make_adapter
from tests.node.twin import Twin, serve_twin

WORDS = [
    "law",
    "base",
    "auto",
    "law:0.7+base:0.3",
    "kitchen",
    "",
    "ab" * 32,
    "0x" + "11" * 20,
    "a\0b",
]
SOME_TEXT = st.one_of(st.sampled_from(WORDS), st.text(max_size=20))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), SOME_TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SOME_TEXT, inner, max_size=3),
    max_leaves=8,
)


def of_schema(
    schema: dict[str, Any], known: dict[str, Any], depth: int = 0
) -> st.SearchStrategy[Any]:
    """Values that a schema of msgspec's takes, or nearly."""
    if "$ref" in schema:
        return of_schema(known[schema["$ref"].rpartition("/")[2]], known, depth)
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")])) | ANYTHING
    if "anyOf" in schema:
        return st.one_of(*(of_schema(one, known, depth) for one in schema["anyOf"]))
    kind = schema.get("type")
    if kind == "object" and "properties" in schema and depth < 4:
        fields = {
            name: of_schema(one, known, depth + 1) for name, one in schema["properties"].items()
        }
        needed = {name: fields.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(needed, optional=fields)
    if kind == "array":
        items = schema.get("items") or {}
        inside = of_schema(items, known, depth + 1) if isinstance(items, dict) else ANYTHING
        return st.lists(inside, min_size=min(1, schema.get("minItems", 0)), max_size=3)
    simple = {
        "string": SOME_TEXT,
        "integer": st.integers(-2, 300) | st.integers(),
        "number": st.floats(-3, 3) | st.floats(),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple.get(str(kind), ANYTHING)


def calls(document: dict[str, Any]) -> st.SearchStrategy[tuple[str, str, bytes]]:
    """Requests to all routes: mostly what they say they take, sometimes anything."""
    known = document["components"]["schemas"]

    @st.composite
    def one(draw: st.DrawFn) -> tuple[str, str, bytes]:
        path = draw(st.sampled_from(sorted(document["paths"])))
        method = draw(st.sampled_from(sorted(document["paths"][path])))
        body = document["paths"][path][method].get("requestBody")
        filled = re.sub(r"\{\w+\}", lambda _: quote(draw(SOME_TEXT), safe="/+:@"), path)
        if body is None:
            return method.upper(), filled, draw(st.sampled_from([b"", b"{}", b"\xff"]))
        if "application/json" not in body["content"]:
            return method.upper(), filled, draw(st.binary(max_size=40))
        schema = body["content"]["application/json"]["schema"]
        value = draw(of_schema(schema, known) if draw(st.integers(0, 4)) else ANYTHING)
        data = json.dumps(value).encode()  # NaN among it
        return method.upper(), filled, data[: draw(st.sampled_from([len(data), len(data) // 2]))]

    return one()


def check(call: tuple[str, str, bytes], reply: Reply) -> None:
    """No fault of ours; a refusal says what and why in the form of its API."""
    assert reply.status != 500, (call, reply.body)
    if reply.status < 400:
        return
    error = reply.json["error"]
    is_ours = not call[1].startswith(("/api/", "/hub/", "/v1/messages"))
    message = error if isinstance(error, str) else error["message"]
    assert isinstance(message, str), call
    assert message, call
    if is_ours:
        assert set(error) == {"message", "type", "param", "code"}, call


def examples(document: dict[str, Any], count: int) -> list[tuple[str, str, bytes]]:
    """So many calls, the same each time. They are drawn before a daemon runs, whose own dice
    hypothesis would see.
    """
    drawn: list[tuple[str, str, bytes]] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls(document))
    def draw(call: tuple[str, str, bytes]) -> None:
        drawn.append(call)

    draw()
    return drawn


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
async def test_no_request_to_any_route_is_an_error_of_ours(tmp_path: Path, count: int) -> None:
    async with serve_twin(Twin()) as url:
        document = (await trio.to_thread.run_sync(ask, url, request("GET", PATH))).json
    drawn = examples(document, count)
    with open_lab(tmp_path) as lab:
        async with lab.daemon("home") as daemon, shown(daemon, tmp_path / "home") as url:
            await daemon.push(make_adapter(tmp_path / "law", "law", 1))
            for method, path, body in drawn:
                data = request(method, path, body, headers=("connection: close",))
                reply = await trio.to_thread.run_sync(ask, url, data)
                check((method, path, body), reply)


async def test_the_document_names_each_route_and_what_it_takes() -> None:
    async with serve_twin(Twin()) as url:
        document = (await trio.to_thread.run_sync(ask, url, request("GET", PATH))).json
    chat = document["paths"]["/v1/chat/completions"]["post"]
    named = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][named.rpartition("/")[2]]
    assert {"model", "messages"} == set(schema["required"])
    pull = document["paths"]["/lorikeet/v1/pull"]["post"]
    assert pull["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "/Error"
    )
    (digest,) = document["paths"]["/lorikeet/v1/receipts/{digest}"]["get"]["parameters"]
    assert (digest["name"], digest["in"]) == ("digest", "path")
    ids = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids)) > 60
    assert describe([])["paths"] == {}
    assert msgspec.json.encode(document)


async def test_the_document_names_what_a_route_reads_of_the_query_and_a_wrong_one_is_refused() -> (
    None
):
    async with serve_twin(Twin()) as url:
        document = (await trio.to_thread.run_sync(ask, url, request("GET", PATH))).json
        place = "/lorikeet/v1/dropped"
        wrong = request("POST", f"{place}?name=notes.txt", b"words")
        reply = await trio.to_thread.run_sync(ask, url, wrong)
    read = {one["name"]: one for one in document["paths"][place]["post"]["parameters"]}
    assert {name: one["required"] for name, one in read.items()} == {
        "drop": True,
        "name": True,
        "at": False,
    }
    assert {one["in"] for one in read.values()} == {"query"}
    assert reply.status == 400
    assert "the query is not what this route takes" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("push", {"folder": "law"}),
        ("push", {"folder": "/law", "key": "creator.key"}),
        ("find", {"path": "hub"}),
        ("audit", {"node": "somebody", "prompts": "prompts"}),
        ("datanets/kitchen/give", {"files": ["notes.txt"]}),
        ("runs/law/publish", {"key": "creator.key"}),
    ],
)
async def test_a_path_that_depends_on_where_the_daemon_stands_is_refused(
    path: str, body: dict[str, object]
) -> None:
    data = request("POST", f"/lorikeet/v1/{path}", json.dumps(body).encode())
    async with serve_twin(Twin()) as url:
        reply = await trio.to_thread.run_sync(ask, url, data)
    assert reply.status == 400
    assert "Say an absolute path - at" in reply.json["error"]["message"]

"""/v1/embeddings as the official client calls it, and what it refuses."""

from __future__ import annotations

import base64
from array import array
from typing import Any

import httpx
import openai
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import EngineBusy, NoEngine
from node.http.embeddings import MAX_INPUTS, as_request, parse
from node.http.fields import BadField
from tests.node.http.test_openai import ask
from tests.node.twin import PEER, VECTOR, Twin, serve_twin
from tests.p2p.helpers import eventually


async def test_the_official_client_gets_vectors_in_both_encodings() -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        # without encoding_format the client asks for base64 and decodes it
        packed = await ask(
            url,
            lambda client: client.embeddings.create(model="law", input=["May I?", "No."], user="x"),
        )
        plain = await ask(
            url,
            lambda client: client.embeddings.create(
                model="base", input=[[1, 2], [3]], dimensions=2, encoding_format="float"
            ),
        )
    assert [one.index for one in packed.data] == [0, 1]
    assert packed.data[1].embedding == pytest.approx(VECTOR)
    assert packed.usage.total_tokens == 7
    facts = packed.model_extra["lorikeet"]
    assert (facts["served_by"], facts["adapter"]) == (PEER, "law")
    assert [one.embedding for one in plain.data] == [list(VECTOR[:2])] * 2
    assert [one.inputs for one in twin.embedded] == [("May I?", "No."), ((1, 2), (3,))]
    assert twin.embedded[1].dimensions == 2


@pytest.mark.parametrize(
    ("given_input", "inputs"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([5, 6], ((5, 6),)),
        ([[5], [6, 7]], ((5,), (6, 7))),
    ],
)
async def test_an_input_is_a_text_a_list_or_token_ids(
    given_input: Any, inputs: tuple[Any, ...]
) -> None:
    twin = Twin()
    async with serve_twin(twin) as url, httpx.AsyncClient(trust_env=False) as client:
        body = {"model": "base", "input": given_input, "encoding_format": "base64"}
        answer = await client.post(f"{url}/v1/embeddings", json=body)
    assert twin.embedded[0].inputs == inputs
    for one in answer.json()["data"]:
        assert array("f", base64.b64decode(one["embedding"])).tolist() == pytest.approx(VECTOR)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ["a", 1]}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input"),
        ({"input": 3}, "input"),
        ({}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "pooling": "mean"}, "pooling"),
    ],
)
async def test_a_bad_body_names_its_field(fields: dict[str, Any], param: str) -> None:
    twin = Twin()
    async with serve_twin(twin) as url, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{url}/v1/embeddings", json={"model": "base", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not twin.embedded


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NoEngine("none here"), openai.InternalServerError), (EngineBusy("full"), openai.APIError)],
)
async def test_a_daemon_s_error_has_its_own_status(error: Any, kind: type[openai.APIError]) -> None:
    async with serve_twin(Twin(error=error)) as url:
        with pytest.raises(kind, match=str(error)) as raised:
            await ask(url, lambda client: client.embeddings.create(model="base", input="a"))
    assert raised.value.status_code == error.status


async def test_a_client_that_leaves_cancels_the_work() -> None:
    twin = Twin(word_delay_s=60)
    body = {"model": "base", "input": "a"}
    async with serve_twin(twin) as url, httpx.AsyncClient(trust_env=False) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.post(f"{url}/v1/embeddings", json=body))
            await eventually(lambda: bool(twin.embedded))
            nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            await twin.cancelled.wait()


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_bytes_that_are_no_body_name_what_is_wrong(data: bytes) -> None:
    with pytest.raises(BadField) as raised:
        as_request(parse(data))
    assert raised.value.field

"""Ollama's routes: lines of JSON, options, calls and errors as its clients expect them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import Choosing, Grammar
from node import errors
from node.api.answers import ChatMessage, Tool, ToolCall
from node.http.fields import BadField
from node.http.ollama.body import parse
from tests.node.http.test_responses import JSON
from tests.node.twin import BASE, LAW, PEER, RECEIPT, VECTOR, WORDS, Twin, serve_twin

WHOLE = "".join(WORDS)
USER = [{"role": "user", "content": "May I?"}]
LOOK = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}},
}
CALLS = (ToolCall("call_1", "look", '{"at":"Bern"}'), ToolCall("call_2", "look", "{}"))


async def post(twin: Twin, path: str, **body: Any) -> httpx.Response:
    async with serve_twin(twin) as url, httpx.AsyncClient(trust_env=False) as client:
        return await client.post(f"{url}/api/{path}", json={"model": "law:latest"} | body)


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_chat_streams_lines_unless_told_not_to() -> None:
    twin = Twin()
    streamed = lines(await post(twin, "chat", messages=USER))
    whole = (await post(twin, "chat", messages=USER, stream=False)).json()
    assert "".join(line["message"]["content"] for line in streamed) == WHOLE
    assert [line["done"] for line in streamed] == [False] * len(WORDS) + [True]
    assert whole["message"] == {"role": "assistant", "content": WHOLE}
    for last in (streamed[-1], whole):
        assert (last["model"], last["done_reason"]) == ("law:latest", "stop")
        assert (last["prompt_eval_count"], last["eval_count"]) == (7, len(WORDS))
        assert last["total_duration"] == 40_000_000
        assert last["lorikeet"]["receipt"] == RECEIPT.digest
    request = twin.asked[0]
    assert (request.model, request.prompt) == ("law", (ChatMessage("user", "May I?"),))
    assert request.max_tokens is None
    assert request.choosing == Choosing(0.8, 40, 0.9, repetition_penalty=1.1)


async def test_options_say_how_tokens_are_chosen() -> None:
    twin = Twin()
    options = {
        "num_predict": 3,
        "temperature": 0,
        "top_p": 1.0,
        "top_k": 0,
        "repeat_penalty": 1.0,
        "min_p": 0.1,
        "seed": 5,
        "stop": ["END"],
        "num_ctx": 4096,
        "mirostat": 0,
    }
    answer = (
        await post(twin, "generate", prompt="Once", raw=True, stream=False, options=options)
    ).json()
    assert (answer["response"], answer["done_reason"]) == ("The court finds", "length")
    request = twin.asked[0]
    assert (request.prompt, request.max_tokens, request.seed, request.stop) == (
        "Once",
        3,
        5,
        ("END",),
    )
    assert request.choosing == Choosing(min_p=0.1)


async def test_a_generation_is_a_turn_of_the_template_and_an_empty_one_loads() -> None:
    twin = Twin()
    streamed = lines(await post(twin, "generate", prompt="May I?", system="Be brief."))
    loaded = (await post(twin, "generate")).json()
    assert "".join(line["response"] for line in streamed) == WHOLE
    assert twin.asked[0].prompt == (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "May I?"),
    )
    assert (loaded["done"], loaded["done_reason"]) == (True, "load")
    assert len(twin.asked) == 1


async def test_calls_come_whole_and_their_results_find_them() -> None:
    twin = Twin(calls=CALLS)
    streamed = lines(await post(twin, "chat", messages=USER, tools=[LOOK]))
    whole = (await post(twin, "chat", messages=USER, tools=[LOOK], stream=False)).json()
    told = [call for line in streamed for call in line["message"].get("tool_calls", [])]
    assert told == whole["message"]["tool_calls"]
    assert [(one["id"], one["function"]["arguments"]) for one in told] == [
        ("call_1", {"at": "Bern"}),
        ("call_2", {}),
    ]
    assert whole["message"]["content"] == "The court"
    assert twin.asked[0].tools == (Tool("look", "Look.", {"type": "object"}),)
    function = {"name": "look", "arguments": {"at": "Bern"}}
    turns = [
        *USER,
        {"role": "assistant", "content": "", "tool_calls": [{"function": function}] * 2},
        {"role": "tool", "tool_name": "look", "content": "Rain."},
        {"role": "tool", "content": "Snow."},
    ]
    await post(twin, "chat", messages=turns, tools=[LOOK])
    _, asked, first, second = twin.asked[-1].prompt
    assert [call.arguments for call in asked.tool_calls] == ['{"at":"Bern"}'] * 2
    assert first == ChatMessage("tool", "Rain.", tool_call_id=asked.tool_calls[0].id)
    assert second == ChatMessage("tool", "Snow.", tool_call_id=asked.tool_calls[1].id)


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [("json", '{"type":"object"}'), ({"type": "integer"}, '{"type":"integer"}')],
)
async def test_a_format_binds_the_answer(wanted: Any, schema: str) -> None:
    twin = Twin()
    await post(twin, "chat", messages=USER, format=wanted)
    assert twin.asked[0].choosing.grammar == Grammar("json_schema", schema)


async def test_models_are_listed_shown_and_embed() -> None:
    async with serve_twin(Twin()) as url, httpx.AsyncClient(trust_env=False) as client:
        version = (await client.get(f"{url}/api/version")).json()
        tags = (await client.get(f"{url}/api/tags")).json()["models"]
        show = (await client.post(f"{url}/api/show", json={"model": "law"})).json()
        absent = await client.post(f"{url}/api/show", json={"model": "verse"})
        body = {"model": "law", "input": ["a", "b"], "truncate": True}
        embedded = (await client.post(f"{url}/api/embed", json=body)).json()
    assert version["version"].count(".") == 2
    assert [(one["name"], one["digest"]) for one in tags] == [
        ("base", BASE.digest),
        ("law", LAW.cid),
    ]
    assert "tools" in show["capabilities"]
    assert absent.status_code == 404
    assert "verse" in absent.json()["error"]
    assert embedded["embeddings"] == [pytest.approx(VECTOR)] * 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "images": ["a"]}]}, "messages[0].images"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"messages": USER, "format": "xml"}, "format"),
        ({"messages": USER, "options": {"mirostat": 2}}, "options.mirostat"),
        ({"messages": USER, "options": {"num_predict": "x"}}, "options.num_predict"),
        ({"messages": USER, "options": {"temperature": "x"}}, "temperature"),
        ({"messages": USER, "options": {"stop": [""]}}, "options.stop"),
        ({"messages": USER, "logprobs": True}, "logprobs"),
        ({"messages": USER, "tools": [{"type": "code"}]}, "tools[0]"),
    ],
)
async def test_a_bad_body_names_its_field_in_ollama_s_shape(
    fields: dict[str, Any], param: str
) -> None:
    twin = Twin()
    answer = await post(twin, "chat", **fields)
    assert answer.status_code == 400
    assert answer.json()["param"] == param
    assert param.rpartition(".")[2].partition("[")[0] in answer.json()["error"]
    assert not twin.asked


async def test_a_daemon_s_error_is_a_status_before_the_answer_and_a_line_in_it() -> None:
    broken = errors.NodeVanished("it went away")
    before = await post(Twin(error=broken), "chat", messages=USER)
    assert (before.status_code, before.json()["error"]) == (502, "it went away")
    during = lines(await post(Twin(error=broken, error_after=2), "chat", messages=USER))
    assert [line.get("error") for line in during] == [None, None, "it went away"]
    served = (await post(Twin(), "chat", messages=USER, stream=False)).json()
    assert served["lorikeet"]["served_by"] == PEER


@settings(derandomize=True, max_examples=120, deadline=None)
@given(
    st.booleans(),
    st.dictionaries(st.sampled_from(["messages", "tools", "options", "format", "prompt"]), JSON),
)
def test_any_json_is_a_question_or_names_its_fault(chat: bool, fields: dict[str, Any]) -> None:
    data = json.dumps({"model": "base"} | fields).encode()
    try:
        asked = parse(data, chat=chat)
    except BadField as error:
        told = error
    else:
        assert asked.model == "base"
        return
    assert told.field

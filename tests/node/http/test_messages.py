"""Anthropic's /v1/messages: blocks, events and errors as its own client expects them."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import Grammar
from node import errors
from node.api.answers import ChatMessage, Tool, ToolCall, ToolChoice
from node.http.fields import BadField
from node.http.messages.body import parse
from tests.node.http.test_openai import T
from tests.node.http.test_responses import JSON
from tests.node.twin import PEER, RECEIPT, WORDS, Twin, serve_twin

USER: list[Any] = [{"role": "user", "content": "May I?"}]
LOOK: Any = {
    "name": "look",
    "description": "Look there.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}
CALLS = (ToolCall("toolu_1", "look", '{"at":"Bern"}'), ToolCall("toolu_2", "look", "{}"))


async def ask(url: str, question: Any) -> Any:
    """Run Anthropic's own client, which is synchronous, in a thread."""

    def run() -> T:
        with anthropic.Anthropic(
            base_url=url, api_key="unused", max_retries=0, timeout=60
        ) as client:
            return question(client)

    return await trio.to_thread.run_sync(run)


async def test_the_official_client_reads_a_whole_message() -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        message = await ask(
            url,
            lambda client: client.messages.create(
                model="law",
                max_tokens=40,
                system=[
                    {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
                ],
                messages=USER,
                stop_sequences=["END"],
                metadata={"user_id": "u"},
                extra_body={"temperature": 0.5, "top_k": 9},
            ),
        )
    assert message.content[0].text == "".join(WORDS)
    assert (message.stop_reason, message.stop_sequence, message.role) == (
        "end_turn",
        None,
        "assistant",
    )
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, len(WORDS))
    assert message.model_extra["lorikeet"]["receipt"] == RECEIPT.digest
    request = twin.asked[0]
    assert request.prompt == (ChatMessage("system", "Be brief."), ChatMessage("user", "May I?"))
    assert (request.max_tokens, request.stop) == (40, ("END",))
    assert (request.choosing.temperature, request.choosing.top_k) == (0.5, 9)


async def test_events_come_in_anthropic_s_order_and_add_up() -> None:
    def question(client: anthropic.Anthropic) -> tuple[list[Any], Any]:
        create = {"model": "law", "max_tokens": 40, "messages": USER, "tools": [LOOK]}
        raw = list(client.messages.create(**create, stream=True))
        with client.messages.stream(**create) as stream:
            stream.until_done()
            return raw, stream.get_final_message()

    async with serve_twin(Twin(calls=CALLS)) as url:
        events, final = await ask(url, question)
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [event.type for event in events] == [
        "message_start",
        *[block[0], block[1], block[1], block[2]] * 2,
        *block,
        "message_delta",
        "message_stop",
    ]
    start = events[0].message
    assert (start.content, start.stop_reason, start.usage.input_tokens) == ([], None, 7)
    assert start.model_extra["lorikeet"]["served_by"] == PEER
    assert [event.index for event in events if event.type == "content_block_start"] == [0, 1, 2]
    assert final.content[0].text == "The court"
    assert [(one.id, one.name, one.input) for one in final.content[1:]] == [
        ("toolu_1", "look", {"at": "Bern"}),
        ("toolu_2", "look", {}),
    ]
    assert final.stop_reason == "tool_use"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7, 2)


@pytest.mark.parametrize(
    ("twin", "max_tokens", "reason", "text"),
    [
        (Twin(stop_text="END"), 40, "stop_sequence", "END"),
        (Twin(), 3, "max_tokens", None),
        (Twin(), 40, "end_turn", None),
    ],
)
async def test_why_it_ended_is_said_in_anthropic_s_words(
    twin: Twin, max_tokens: int, reason: str, text: str | None
) -> None:
    async with serve_twin(twin) as url:
        message = await ask(
            url,
            lambda client: client.messages.create(
                model="law", max_tokens=max_tokens, messages=USER
            ),
        )
    assert (message.stop_reason, message.stop_sequence) == (reason, text)


async def test_blocks_and_tools_become_one_question() -> None:
    twin = Twin()
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "May I?"}]},
        {"role": "user", "content": "Please."},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "a", "name": "look", "input": {"at": "Bern"}},
                {"type": "tool_use", "id": "b", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "Rain."},
                {
                    "type": "tool_result",
                    "tool_use_id": "b",
                    "is_error": True,
                    "content": [{"type": "text", "text": "closed"}],
                },
                {"type": "text", "text": "So?"},
            ],
        },
    ]
    asked = {
        "model": "base",
        "messages": messages,
        "tools": [LOOK],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    async with serve_twin(twin) as url:
        count = await ask(url, lambda client: client.messages.count_tokens(**asked))
        await ask(
            url,
            lambda client: client.messages.create(
                **asked,
                max_tokens=5,
                thinking={"type": "enabled", "budget_tokens": 1024},
                extra_body={
                    "output_config": {"format": {"type": "json_schema", "schema": schema}},
                    "seed": 3,
                    "lorikeet": {"node": PEER},
                },
            ),
        )
    assert count.input_tokens == 7
    request = twin.asked[1]
    assert (
        request.prompt
        == twin.asked[0].prompt
        == (
            ChatMessage("user", "May I?\n\nPlease."),
            ChatMessage(
                "assistant",
                "Let me look.",
                (ToolCall("a", "look", '{"at":"Bern"}'), ToolCall("b", "look", "{}")),
            ),
            ChatMessage("tool", "Rain.", tool_call_id="a"),
            ChatMessage("tool", "Error: closed", tool_call_id="b"),
            ChatMessage("user", "So?"),
        )
    )
    assert request.tools == (Tool("look", "Look there.", LOOK["input_schema"]),)
    assert request.tool_choice == ToolChoice("required", is_parallel=False)
    assert request.choosing.grammar == Grammar(
        "json_schema", json.dumps(schema, separators=(",", ":"))
    )
    assert (request.seed, request.node) == (3, PEER)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [*USER, {"role": "assistant", "content": "I"}]}, "messages"),
        ({"messages": [{"role": "critic", "content": "I"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]},
            "messages[0].content[0].type",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "s"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "must"}}, "tool_choice.type"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"output_format": {"type": "grammar"}}, "output_config.format"),
    ],
)
async def test_a_bad_body_names_its_field_in_anthropic_s_shape(
    fields: dict[str, Any], param: str
) -> None:
    twin = Twin()
    body = {"model": "base", "max_tokens": 5, "messages": USER} | fields
    async with serve_twin(twin) as url, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{url}/v1/messages", json=body)
    assert answer.status_code == 400
    error = answer.json()
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["param"] == param
    assert not twin.asked


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (errors.UnknownModel("law"), anthropic.NotFoundError, "not_found_error"),
        (errors.EngineBusy("full"), anthropic.InternalServerError, "overloaded_error"),
        (errors.BadRequest("too long"), anthropic.BadRequestError, "invalid_request_error"),
        (errors.NodeVanished("gone"), anthropic.InternalServerError, "api_error"),
    ],
)
async def test_a_daemon_s_error_is_anthropic_s_before_the_answer_and_in_it(
    error: errors.NodeError, kind: type[anthropic.APIStatusError], name: str
) -> None:
    def question(client: anthropic.Anthropic) -> Any:
        return list(client.messages.create(model="law", max_tokens=9, messages=USER, stream=True))

    async with serve_twin(Twin(error=error)) as url:
        with pytest.raises(kind) as raised:
            await ask(url, question)
    assert raised.value.body["error"]["type"] == name
    async with serve_twin(Twin(error=error, error_after=2)) as url:
        with pytest.raises(anthropic.APIStatusError, match=name):
            await ask(url, question)


async def test_models_are_listed_as_anthropic_does() -> None:
    async with serve_twin(Twin()) as url:
        listed = await ask(url, lambda client: list(client.models.list()))
        one = await ask(url, lambda client: client.models.retrieve("law"))
    assert [(model.id, model.type) for model in listed] == [("base", "model"), ("law", "model")]
    assert one.display_name == "law"


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/v1/messages", lambda error: (error["type"], error["error"]["message"])),
        ("/api/chat", lambda error: ("error", error["error"])),
        ("/v1/responses", lambda error: ("error", error["error"]["message"])),
    ],
)
async def test_who_is_refused_at_the_door_reads_it_in_the_api_s_own_shape(
    path: str, read: Any
) -> None:
    async with serve_twin(Twin()) as url, httpx.AsyncClient(trust_env=False) as client:
        page = await client.post(f"{url}{path}", headers={"origin": "http://evil.example"})
        absent = await client.post(f"{url}{path}/nowhere/at/all")
    for answer, status, words in ((page, 403, "evil"), (absent, 404, "not served")):
        assert answer.status_code == status
        kind, message = read(answer.json())
        assert kind == "error"
        assert words in message


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["messages", "tools", "tool_choice", "system", "output_config"]), JSON
    )
)
def test_any_json_is_a_question_or_names_its_fault(fields: dict[str, Any]) -> None:
    data = json.dumps({"model": "base", "messages": USER, "max_tokens": 1} | fields).encode()
    try:
        asked = parse(data)
    except BadField as error:
        told = error
    else:
        assert asked.request.prompt
        return
    assert told.field

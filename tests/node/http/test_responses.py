"""/v1/responses as the official client calls it: items, events, what is remembered and what is
forgotten.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import Grammar
from node import errors
from node.api.answers import ChatMessage, Tool, ToolCall, ToolChoice
from node.http.fields import BadField
from node.http.responses.body import parse
from node.http.responses.store import Kept, ResponseStore
from tests.node.http.test_openai import ask
from tests.node.twin import PEER, RECEIPT, WORDS, Twin, serve_twin

WHOLE = "".join(WORDS)
CALLS = (ToolCall("call_1", "look", '{"at":"Bern"}'), ToolCall("call_2", "go", "{}"))
LOOK = {
    "type": "function",
    "name": "look",
    "description": "Look there.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
}


async def test_the_official_client_reads_a_whole_response() -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        answer = await ask(
            url,
            lambda client: client.responses.create(
                model="law",
                instructions="Be brief.",
                input="May I?",
                temperature=0.5,
                max_output_tokens=40,
                metadata={"case": "1"},
            ),
        )
    assert answer.output_text == WHOLE
    assert (answer.status, answer.incomplete_details, answer.error) == ("completed", None, None)
    assert answer.output[0].status == "completed"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, len(WORDS))
    assert answer.metadata == {"case": "1"}
    assert answer.model_extra["lorikeet"]["receipt"] == RECEIPT.digest
    request = twin.asked[0]
    assert request.prompt == (ChatMessage("system", "Be brief."), ChatMessage("user", "May I?"))
    assert (request.model, request.max_tokens) == ("law", 40)
    assert request.choosing.temperature == 0.5


async def test_events_come_in_the_documented_order_and_add_up() -> None:
    twin = Twin(calls=CALLS)

    def question(client: openai.OpenAI) -> list[Any]:
        return list(client.responses.create(model="law", input="May I?", tools=[LOOK], stream=True))

    async with serve_twin(twin) as url:
        events = await ask(url, question)
    text = [
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 2,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    call = [
        "response.output_item.added",
        *["response.function_call_arguments.delta"] * 2,
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    # the second call's arguments come in one part
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        *text,
        *call,
        *(call[:1] + call[2:]),
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].response.status == "in_progress"
    assert events[0].response.model_extra["lorikeet"]["served_by"] == PEER
    final = events[-1].response
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == "The court"
    items = [event.item for event in events if event.type == "response.output_item.done"]
    assert items == final.output
    made = [(one.call_id, one.name, one.arguments) for one in final.output[1:]]
    assert made == [(one.id, one.name, one.arguments) for one in CALLS]
    assert final.usage.total_tokens == 9


async def test_the_official_client_s_own_helper_follows_a_stream() -> None:
    def question(client: openai.OpenAI) -> tuple[str, Any]:
        with client.responses.stream(model="law", input="May I?") as stream:
            text = "".join(
                event.delta for event in stream if event.type == "response.output_text.delta"
            )
            return text, stream.get_final_response()

    async with serve_twin(Twin()) as url:
        text, final = await ask(url, question)
    assert text == final.output_text == WHOLE


async def test_an_answer_that_is_cut_is_incomplete() -> None:
    def question(client: openai.OpenAI) -> Any:
        create = {"model": "law", "input": "May I?", "max_output_tokens": 3}
        last = list(client.responses.create(**create, stream=True))[-1]
        return last, client.responses.create(**create)

    async with serve_twin(Twin()) as url:
        last, whole = await ask(url, question)
    assert last.type == "response.incomplete"
    for final in (last.response, whole):
        assert final.output_text == "The court finds"
        assert final.status == final.output[-1].status == "incomplete"
        assert final.incomplete_details.reason == "max_output_tokens"


async def test_a_response_is_gone_on_from_got_and_deleted() -> None:
    twin = Twin(calls=CALLS[:1])

    def question(client: openai.OpenAI) -> None:
        first = client.responses.create(
            model="law", instructions="Once.", input="May I?", tools=[LOOK]
        )
        assert client.responses.retrieve(first.id).output == first.output
        items = client.responses.input_items.list(first.id).data
        assert items[0].content[0].text == "May I?"
        second = client.responses.create(
            model="law",
            previous_response_id=first.id,
            input=[{"type": "function_call_output", "call_id": "call_1", "output": "Sunny."}],
        )
        assert second.previous_response_id == first.id
        client.responses.create(
            model="law",
            input=[
                {"type": "item_reference", "id": second.output[0].id},
                {"role": "user", "content": "So?"},
            ],
        )
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError, match="not remembered"):
            client.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError, match="whole conversation") as raised:
            client.responses.create(model="law", previous_response_id=first.id, input="x")
        assert raised.value.code == "previous_response_not_found"
        hidden = client.responses.create(model="law", input="Hush", store=False)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(hidden.id)

    async with serve_twin(twin) as url:
        await ask(url, question)
    assert twin.asked[1].prompt == (
        ChatMessage("user", "May I?"),
        ChatMessage("assistant", "The court", (CALLS[0],)),
        ChatMessage("tool", "Sunny.", tool_call_id="call_1"),
    )
    assert twin.asked[2].prompt == (ChatMessage("assistant", WHOLE), ChatMessage("user", "So?"))


async def test_items_tools_and_formats_become_one_question() -> None:
    twin = Twin()
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    items = [
        {"type": "message", "role": "developer", "content": "Rules."},
        {"role": "user", "content": [{"type": "input_text", "text": "May "}] * 2},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me look."}],
        },
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "look", "arguments": '{"at":"Bern"}'},
        {"type": "function_call_output", "call_id": "a", "output": "Rain."},
        {
            "type": "function_call_output",
            "call_id": "b",
            "output": [{"type": "input_text", "text": "Snow."}],
        },
    ]
    async with serve_twin(twin) as url:
        count = await ask(
            url,
            lambda client: client.responses.input_tokens.count(model="base", input="May I?"),
        )
        await ask(
            url,
            lambda client: client.responses.create(
                model="base",
                input=items,
                tools=[LOOK],
                tool_choice={"type": "function", "name": "look"},
                parallel_tool_calls=False,
                text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
                include=["message.output_text.logprobs"],
                reasoning={"effort": "low"},
                truncation="auto",
                user="u",
                extra_body={"seed": 3, "lorikeet": {"node": PEER}, "top_k": 7},
            ),
        )
    assert count.input_tokens == 7
    request = twin.asked[1]
    assert request.prompt == (
        ChatMessage("system", "Rules."),
        ChatMessage("user", "May May "),
        ChatMessage(
            "assistant",
            "Let me look.",
            (ToolCall("a", "look", "{}"), ToolCall("b", "look", '{"at":"Bern"}')),
        ),
        ChatMessage("tool", "Rain.", tool_call_id="a"),
        ChatMessage("tool", "Snow.", tool_call_id="b"),
    )
    assert request.tools == (Tool("look", "Look there.", LOOK["parameters"]),)
    assert request.tool_choice == ToolChoice("required", "look", is_parallel=False)
    assert request.choosing.grammar == Grammar(
        "json_schema", json.dumps(schema, separators=(",", ":"))
    )
    assert (request.seed, request.node, request.logprobs) == (3, PEER, 0)
    assert (request.choosing.top_k, request.choosing.temperature) == (7, 1.0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": [{"type": "image_generation_call"}]}, "input[0].type"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "item_reference", "id": "msg_gone"}]}, "input"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "a", "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"input": "a", "tool_choice": "sometimes"}, "tool_choice"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "conversation": "conv_1"}, "conversation"),
        ({"input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"input": "a", "temperature": 3}, "temperature"),
        ({"input": "a", "top_logprobs": 21}, "top_logprobs"),
        ({"input": "a", "previous_response_id": "resp_gone"}, "previous_response_id"),
    ],
)
async def test_a_bad_body_names_its_field(fields: dict[str, Any], param: str) -> None:
    twin = Twin()
    async with serve_twin(twin) as url, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{url}/v1/responses", json={"model": "base", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not twin.asked


async def test_an_error_is_a_status_before_the_answer_and_an_event_in_it() -> None:
    broken = errors.EngineLost("the engine died")

    def question(client: openai.OpenAI) -> Any:
        return list(client.responses.create(model="base", input="May I?", stream=True))[-1]

    async with serve_twin(Twin(error=broken, error_after=2)) as url:
        last = await ask(url, question)
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert "the engine died" in last.response.error.message
    assert last.response.output[0].content[0].text == "The court"
    async with serve_twin(Twin(error=broken)) as url:
        with pytest.raises(openai.InternalServerError, match="the engine died"):
            await ask(url, question)


def kept(number: int, size: int) -> Kept:
    output = [{"id": f"msg_{number}", "type": "message"}]
    response = {"id": f"resp_{number}", "output": output}
    return Kept(response, (), (ChatMessage("user", "x" * size),))


@settings(derandomize=True, max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["keep", "find", "forget"]), st.integers(0, 9), st.integers(0, 900)
        ),
        max_size=40,
    )
)
def test_what_is_remembered_stays_within_its_bounds_and_the_oldest_goes_first(
    operations: list[tuple[str, int, int]],
) -> None:
    store = ResponseStore(max_responses=4, max_bytes=2000)
    for at, (kind, number, size) in enumerate(operations):
        if kind == "keep":
            store.keep(kept(100 + at, size))
            assert store.find(f"resp_{100 + at}") is not None
        elif kind == "find":
            found = store.find(f"resp_{100 + at - number}")
            assert found is None or found.response["output"][0]["id"] == f"msg_{100 + at - number}"
        else:
            there = store.find(f"resp_{100 + at - number}") is not None
            assert store.forget(f"resp_{100 + at - number}") == there
        store.check()


def test_what_is_larger_than_the_place_is_not_remembered() -> None:
    store = ResponseStore(max_bytes=300)
    store.keep(kept(1, 10))
    store.keep(kept(2, 400))
    assert store.find("resp_2") is None
    assert store.find("resp_1") is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "name", "call_id", "output", "id"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["input", "tools", "tool_choice", "text", "include"]), JSON))
def test_any_json_is_a_question_or_names_its_fault(fields: dict[str, Any]) -> None:
    data = json.dumps({"model": "base", "input": "a"} | fields).encode()
    try:
        asked = parse(data, ResponseStore())
    except BadField as error:
        told = error
    else:
        assert asked.turns
        return
    assert told.field

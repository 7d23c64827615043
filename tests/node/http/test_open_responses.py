"""The cases that Open Responses publishes for servers of the Responses API (openresponses.org,
`npm run test:compliance`), put in our words: each body as it is sent there, each answer against the
types of the official client and the fields that the published schema requires.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from node.api.answers import ToolCall
from tests.node.twin import Twin, serve_twin

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
NULLABLE = {
    "completed_at",
    "incomplete_details",
    "previous_response_id",
    "instructions",
    "error",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
}
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "created_at": int,
    "status": str,
    "model": str,
    "output": list,
    "tools": list,
    "tool_choice": (str, dict),
    "truncation": str,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "top_logprobs": int,
    "temperature": float,
    "store": bool,
    "background": bool,
    "service_tier": str,
    "metadata": dict,
}


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {
                "type": "string",
                "description": "The city and state, e.g. San Francisco, CA",
            }
        },
        "required": ["location"],
    },
}
CALL = ToolCall("call_1", "get_weather", '{"location":"San Francisco, CA"}')
ASKED_WEATHER = {
    "input": [user("What's the weather like in San Francisco?")],
    "tools": [WEATHER],
}
CASES: dict[str, dict[str, Any]] = {
    "basic-response": {"input": [user("Say hello in exactly 3 words.")]},
    "streaming-response": {"input": [user("Count from 1 to 5.")], "stream": True},
    "system-prompt": {
        "input": [
            {
                "type": "message",
                "role": "system",
                "content": "You are a pirate. Always respond in pirate speak.",
            },
            user("Say hello."),
        ]
    },
    "tool-calling": ASKED_WEATHER,
    "tool-calling-streaming": ASKED_WEATHER | {"stream": True},
    "multi-turn": {
        "input": [
            user("My name is Alice."),
            {
                "type": "message",
                "role": "assistant",
                "content": "Hello Alice! Nice to meet you. How can I help you today?",
            },
            user("What is my name?"),
        ]
    },
}


async def create(twin: Twin, body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The response, and the events that led to it where it is streamed."""
    async with serve_twin(twin) as url, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{url}/v1/responses", json={"model": "base"} | body)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        return answer.json(), []
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.strip().split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    events = []
    for block in blocks[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        EVENT.validate_python(events[-1])
    return events[-1]["response"], events


def assert_whole(response: dict[str, Any]) -> None:
    """It has every field that the published schema requires, of its type."""
    Response.model_validate(response)
    assert response["object"] == "response"
    assert response.keys() >= NULLABLE | REQUIRED.keys()
    for name, kind in REQUIRED.items():
        assert isinstance(response[name], kind), name
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert "cached_tokens" in usage["input_tokens_details"]
    assert "reasoning_tokens" in usage["output_tokens_details"]
    for tool in response["tools"]:
        assert tool.keys() >= {"type", "name", "description", "parameters", "strict"}
    for item in response["output"]:
        assert item["status"] == "completed"
        assert item["id"]


@pytest.mark.parametrize("case", CASES)
async def test_a_published_case_of_open_responses_passes(case: str) -> None:
    body = CASES[case]
    response, events = await create(Twin(calls=(CALL,)), body)
    assert_whole(response)
    assert response["status"] == "completed"
    assert response["output"]
    kinds = [event["type"] for event in events]
    if body.get("stream"):
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
    if "tools" not in body:
        return
    assert "function_call" in [item["type"] for item in response["output"]]
    if body.get("stream"):
        added = [one["item"]["type"] for one in events if one["type"].endswith("item.added")]
        done = [one["item"]["type"] for one in events if one["type"].endswith("item.done")]
        assert "function_call" in added
        assert "function_call" in done
        assert "response.function_call_arguments.delta" in kinds
        assert "response.function_call_arguments.done" in kinds


async def test_the_published_case_with_an_image_is_refused_by_name() -> None:
    parts = [
        {"type": "input_text", "text": "What do you see in this image?"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="},
    ]
    body = {"model": "base", "input": [{"role": "user", "content": parts}]}
    async with serve_twin(Twin()) as url, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{url}/v1/responses", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input[0].content[1]"
    assert "input_image" in answer.json()["error"]["message"]

"""A real daemon on a tiny base calls tools for an unchanged client, and scores a prompt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import trio

from node.http.server import listen, serve_http, url_of
from tests.node.http.test_openai import ask
from tests.node.networks import open_lab

USER = [{"role": "user", "content": "Hot?"}]
UNIT = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "days": {"type": "integer"}},
    "required": ["unit", "days"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": UNIT}},
    {"type": "function", "function": {"name": "stop", "description": "Stops."}},
]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[str]:
    with open_lab(folder) as lab:
        async with lab.daemon("volunteer") as daemon, trio.open_nursery() as nursery:
            sock = listen("127.0.0.1", 0)
            nursery.start_soon(serve_http, daemon, sock)
            yield url_of(sock)
            nursery.cancel_scope.cancel()


def create(client: openai.OpenAI, **fields: Any) -> Any:
    given: dict[str, Any] = {"model": "base", "messages": USER, "tools": TOOLS, "seed": 1} | fields
    return client.chat.completions.create(**given)


def check_call(call: Any, *names: str) -> None:
    given = json.loads(call.function.arguments)
    assert call.function.name in names
    if call.function.name == "weather":
        assert given.keys() == {"unit", "days"}
        assert given["unit"] in ("C", "F")
        assert isinstance(given["days"], int)
    else:
        assert given == {}


async def test_a_real_daemon_calls_tools_and_scores_prompts(tmp_path: Path) -> None:
    async with serving(tmp_path) as url:
        # Must: one call, several, a named one; whole and streamed.
        one = await ask(
            url, lambda client: create(client, tool_choice="required", parallel_tool_calls=False)
        )
        (choice,) = one.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        (call,) = choice.message.tool_calls
        check_call(call, "weather", "stop")
        named: Any = {"type": "function", "function": {"name": "weather"}}
        chosen = await ask(url, lambda client: create(client, tool_choice=named, n=2))
        for each in chosen.choices:
            check_call(each.message.tool_calls[0], "weather")

        def stream(client: openai.OpenAI) -> Any:
            with client.chat.completions.stream(
                model="base",
                messages=USER,
                tools=TOOLS,
                tool_choice="required",
                parallel_tool_calls=False,
                seed=1,
            ) as events:
                return events.get_final_completion()

        streamed = await ask(url, stream)
        assert streamed.choices[0].finish_reason == "tool_calls"
        assert (
            streamed.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
        )
        # What came of it goes back, and the answer is text where calls are forbidden.
        history = [
            *USER,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [call.model_dump()],
            },
            {"role": "tool", "tool_call_id": call.id, "content": "31"},
        ]
        told = await ask(
            url, lambda client: create(client, messages=history, tool_choice="none", max_tokens=5)
        )
        assert told.choices[0].message.tool_calls is None
        auto = await ask(url, lambda client: create(client, messages=history, max_tokens=12))
        assert auto.choices[0].finish_reason in ("length", "stop", "tool_calls")
        # A prompt of its own tokens, echoed with what the model thought of each.
        scored = await ask(
            url,
            lambda client: client.completions.create(
                model="base", prompt=[70, 71, 72], echo=True, logprobs=2, max_tokens=1
            ),
        )
        logprobs = scored.choices[0].logprobs
        assert len(logprobs.tokens) == 4
        assert logprobs.token_logprobs[0] is None
        assert all(one < 0 for one in logprobs.token_logprobs[1:])
        assert [len(one or {}) for one in logprobs.top_logprobs] == [0, 2, 2, 2]
        assert scored.choices[0].text == "".join(logprobs.tokens)
        again = await ask(
            url,
            lambda client: client.completions.create(
                model="base",
                prompt=[70, 71],
                logprobs=0,
                max_tokens=1,
                temperature=0,
                logit_bias={"72": 100},
            ),
        )
        # The model's own, whatever chose the token.
        assert abs(again.choices[0].logprobs.token_logprobs[0] - logprobs.token_logprobs[2]) < 1e-4
        # To the end of its text or of the context, and so it says.
        long = await ask(
            url,
            lambda client: client.completions.create(
                model="base", prompt=[70], logit_bias={"2": -100, "0": -100}
            ),
        )
        facts = long.model_extra["lorikeet"]
        assert long.choices[0].finish_reason == "length"
        assert long.usage.total_tokens == 2048
        assert facts["max_tokens"] == long.usage.completion_tokens == 2047

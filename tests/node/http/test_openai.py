from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import httpx
import openai
import pytest
import trio

from engine.messages import Grammar
from node import errors
from node.api.answers import (
    ChatMessage,
    Chosen,
    CompletionRequest,
    MixedIn,
    Scored,
    TokenPrompt,
    Tool,
    ToolCall,
    ToolChoice,
)
from node.http.fields import BadField
from node.http.guard import MAX_BODY_BYTES
from node.http.openai import parse
from tests.node.networks import until
from tests.node.twin import LAW, OTHER_PEER, PEER, RECEIPT, WORDS, Twin, serve_twin

T = TypeVar("T")
USER = [{"role": "user", "content": "May I?"}]


async def ask(url: str, question: Callable[[openai.OpenAI], T]) -> T:
    """Run the official client, which is synchronous, in a thread."""

    def run() -> T:
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60
        ) as client:
            return question(client)

    return await trio.to_thread.run_sync(run)


async def test_the_official_client_reads_a_whole_chat_answer() -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        answer = await ask(
            url,
            lambda client: client.chat.completions.create(
                model="law", messages=USER, seed=5, temperature=0.5, stop="\n", max_tokens=40
            ),
        )
    assert answer.choices[0].message.content == "".join(WORDS)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 7 + len(WORDS)
    facts = answer.model_extra["lorikeet"]
    assert (facts["served_by"], facts["receipt"], facts["neighbours"]) == (PEER, RECEIPT.digest, 2)
    assert not {"continued", "parents", "auto"} & facts.keys()
    assert facts["timings"] == {"lookup": 1.5, "first_token": 20.0, "total": 40.0}
    request = twin.asked[0]
    assert (
        request.prompt,
        request.seed,
        request.choosing.temperature,
        request.stop,
        request.max_tokens,
    ) == ((ChatMessage("user", "May I?"),), 5, 0.5, ("\n",), 40)


async def test_what_a_cocktail_was_mixed_of_and_what_auto_chose_is_told_beside_an_answer() -> None:
    chosen = Chosen(Scored("law", LAW.cid, 0.5), Scored("verse", "bafkreiverse", 0.25))
    twin = Twin(parents=(MixedIn("law", LAW.cid, -0.7),), chosen=chosen)
    async with serve_twin(twin) as url:
        answer = await ask(
            url,
            lambda client: client.chat.completions.create(model="law", messages=USER),
        )
    facts = answer.model_extra["lorikeet"]
    assert facts["parents"] == [{"name": "law", "cid": LAW.cid, "weight": -0.7}]
    assert facts["auto"] == {
        "model": {"model": "law", "cid": LAW.cid, "score": 0.5},
        "runner_up": {"model": "verse", "cid": "bafkreiverse", "score": 0.25},
    }


async def test_who_went_on_with_an_answer_is_told_beside_it() -> None:
    twin = Twin(continued_after=1)
    async with serve_twin(twin) as url:
        answer = await ask(
            url,
            lambda client: client.chat.completions.create(model="law", messages=USER),
        )
    assert answer.choices[0].message.content == "".join(WORDS)
    (moved,) = answer.model_extra["lorikeet"]["continued"]
    assert moved == {
        "served_by": OTHER_PEER,
        "after_tokens": 1,
        "reason": "the first went away",
    }


async def test_the_official_client_reads_a_streamed_chat_answer_with_usage() -> None:
    async with serve_twin(Twin()) as url:

        def question(client: openai.OpenAI) -> list[Any]:
            stream = client.chat.completions.create(
                model="law", messages=USER, stream=True, stream_options={"include_usage": True}
            )
            return list(stream)

        chunks = await ask(url, question)
    assert "".join(
        chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
    ) == "".join(WORDS)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(WORDS)
    assert chunks[-1].model_extra["lorikeet"]["receipt"] == RECEIPT.digest
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_official_client_reads_text_completions_both_ways() -> None:
    async with serve_twin(Twin()) as url:
        whole = await ask(
            url, lambda client: client.completions.create(model="base", prompt="Once", max_tokens=3)
        )
        chunks = await ask(
            url,
            lambda client: list(
                client.completions.create(model="base", prompt="Once", max_tokens=3, stream=True)
            ),
        )
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("The court finds", "length")
    assert "".join(chunk.choices[0].text for chunk in chunks) == "The court finds"
    assert chunks[-1].model_extra["lorikeet"]["cid"] is None


async def test_the_official_client_asks_for_several_answers_both_ways() -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        whole = await ask(
            url,
            lambda client: client.chat.completions.create(model="law", messages=USER, n=3, seed=5),
        )
        chunks = await ask(
            url,
            lambda client: list(
                client.chat.completions.create(
                    model="law",
                    messages=USER,
                    n=2,
                    stream=True,
                    stream_options={"include_usage": True},
                )
            ),
        )
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert {choice.message.content for choice in whole.choices} == {"".join(WORDS)}
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 3 * len(WORDS))
    assert all(
        choice.model_extra["lorikeet"]["receipt"] == RECEIPT.digest for choice in whole.choices
    )
    seeds = [request.seed for request in twin.asked[:3]]
    assert sorted(seeds)[0] == 5
    assert len(set(seeds)) == 3
    for number in range(2):
        parts = [
            one.delta.content or ""
            for chunk in chunks
            for one in chunk.choices
            if one.index == number
        ]
        assert "".join(parts) == "".join(WORDS)
    assert chunks[-1].usage.completion_tokens == 2 * len(WORDS)


async def test_the_official_client_reads_log_probabilities_of_both_kinds() -> None:
    async with serve_twin(Twin()) as url:
        chat = await ask(
            url,
            lambda client: client.chat.completions.create(
                model="law", messages=USER, logprobs=True, top_logprobs=2, max_tokens=3
            ),
        )
        streamed = await ask(
            url,
            lambda client: list(
                client.chat.completions.create(
                    model="law", messages=USER, logprobs=True, max_tokens=3, stream=True
                )
            ),
        )
        text = await ask(
            url,
            lambda client: client.completions.create(
                model="law", prompt="Once", logprobs=1, max_tokens=3
            ),
        )
    content = chat.choices[0].logprobs.content
    assert [each.token for each in content] == list(WORDS[:3])
    assert bytes(content[1].bytes) == WORDS[1].encode()
    assert [len(each.top_logprobs) for each in content] == [2, 2, 2]
    assert [
        each.token
        for chunk in streamed
        for each in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ] == list(WORDS[:3])
    assert text.choices[0].logprobs.tokens == list(WORDS[:3])
    assert text.choices[0].logprobs.text_offset == [0, 3, 9]
    assert text.choices[0].logprobs.token_logprobs == [-0.5] * 3


async def test_everything_that_shapes_an_answer_reaches_the_daemon() -> None:
    twin = Twin()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "A", "schema": schema, "strict": True}}
    extra = {"min_p": 0.1, "repetition_penalty": 1.2, "top_k": 7}
    async with serve_twin(twin) as url:
        await ask(
            url,
            lambda client: client.chat.completions.create(
                model="law",
                messages=USER,
                presence_penalty=0.5,
                frequency_penalty=-0.5,
                logit_bias={"9": 3, "2": -100},
                response_format=wanted,
                extra_body=extra,
            ),
        )
        await ask(
            url,
            lambda client: client.chat.completions.create(
                model="law", messages=USER, response_format={"type": "json_object"}
            ),
        )
        await ask(
            url,
            lambda client: client.chat.completions.create(
                model="law", messages=USER, extra_body={"lorikeet": {"regex": "a+"}}
            ),
        )
    first, second, third = twin.asked
    assert (
        first.choosing.min_p,
        first.choosing.repetition_penalty,
        first.choosing.top_k,
        first.choosing.presence_penalty,
        first.choosing.frequency_penalty,
    ) == (0.1, 1.2, 7, 0.5, -0.5)
    assert dict(first.choosing.logit_bias) == {9: 3.0, 2: -100.0}
    assert json.loads(first.choosing.grammar.text) == schema
    assert second.choosing.grammar == Grammar("json_schema", '{"type":"object"}')
    assert third.choosing.grammar == Grammar("regex", "a+")


async def test_a_request_may_name_the_node_that_must_answer() -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        await ask(
            url,
            lambda client: client.chat.completions.create(
                model="law", messages=USER, extra_body={"lorikeet": {"node": "16Uiu2HAmOther"}}
            ),
        )
    assert twin.asked[0].node == "16Uiu2HAmOther"


async def test_models_lists_the_base_and_the_adapters() -> None:
    async with serve_twin(Twin()) as url:
        listed = await ask(url, lambda client: [model.id for model in client.models.list()])
        assert (
            await ask(url, lambda client: client.models.retrieve("law"))
        ).owned_by == "16Uiu2HAmCreator"
        with pytest.raises(openai.NotFoundError):
            await ask(url, lambda client: client.models.retrieve("nobody"))
    assert listed == ["base", "law"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.NoChannel("no channel"), 402, "no_channel"),
        (errors.PaymentRequired("pay first"), 402, "payment_required"),
        (errors.EngineBusy("no room"), 503, "busy"),
        (errors.EngineLost("it died"), 503, "engine_lost"),
        (errors.NoProvider("nobody"), 503, "no_provider"),
        (errors.NodeVanished("gone"), 502, "node_failed"),
        (errors.NodeRefused("16Uiu2HAmOther", "busy", "later"), 503, "busy"),
        (errors.BadRequest("too long"), 400, "bad_request"),
    ],
)
async def test_each_error_of_the_daemon_has_its_status(
    error: errors.NodeError, status: int, code: str
) -> None:
    async with serve_twin(Twin(error=error)) as url:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                await ask(
                    url,
                    lambda client, stream=stream: client.chat.completions.create(
                        model="law", messages=USER, stream=stream
                    ),
                )
            assert (caught.value.status_code, caught.value.code) == (status, code)
            assert str(error) in caught.value.message


async def test_an_unknown_model_is_404_and_names_what_is_close() -> None:
    async with serve_twin(Twin()) as url:
        with pytest.raises(openai.NotFoundError, match="did you mean law") as caught:
            await ask(
                url, lambda client: client.chat.completions.create(model="lwa", messages=USER)
            )
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_an_engine_that_dies_in_mid_stream_is_an_error_event() -> None:
    words: list[str] = []
    async with serve_twin(Twin(error=errors.EngineLost("the engine died"), error_after=3)) as url:

        def question(client: openai.OpenAI) -> None:
            words.extend(
                chunk.choices[0].delta.content or ""
                for chunk in client.chat.completions.create(model="law", messages=USER, stream=True)
            )

        with pytest.raises(openai.APIError, match="the engine died"):
            await ask(url, question)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_its_answer(stream: bool) -> None:
    twin = Twin(word_delay_s=60.0)
    body = {"model": "law", "messages": USER, "stream": stream}
    async with serve_twin(twin) as url, httpx.AsyncClient(trust_env=False) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.post, f"{url}/v1/chat/completions", json=body))
            await until(lambda: bool(twin.asked))
            nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            await twin.cancelled.wait()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n": 17}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"the": 1}}, "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_object"}, "lorikeet": {"regex": "a"}},
            "lorikeet.regex",
        ),
        ({"min_p": 1.1}, "min_p"),
        ({"top_k": 1 << 24}, "top_k"),
        ({"top_k": "all"}, "top_k"),
        ({"top_k": -2}, "top_k"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {str(1 << 24): 1}}, "logit_bias"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tree", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": "x", "function_call": {"name": "f"}}]},
            "messages[0].function_call",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
            "messages[0].content",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0]",
        ),
        ({"lorikeet": {"nod": "x"}}, "lorikeet"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_what_would_change_the_answer_is_refused_by_name(
    change: dict[str, Any], field: str
) -> None:
    async with serve_twin(Twin()) as url, httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(
            f"{url}/v1/chat/completions", json={"model": "law", "messages": USER} | change
        )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_what_does_not_change_the_answer_is_taken() -> None:
    neutral = (
        b'{"model":"law","prompt":["x"],"n":1,"user":"me","logit_bias":null,"presence_penalty":0,'
        b'"echo":false,"metadata":{"a":"b"}}'
    )
    assert parse(neutral, chat=False).requests[0].prompt == "x"
    with pytest.raises(BadField, match="not JSON"):
        parse(b'{"model":', chat=False)


async def test_only_loopback_pages_and_bounded_bodies_come_in() -> None:
    async with serve_twin(Twin()) as url, httpx.AsyncClient(trust_env=False) as client:
        rebound = await client.get(f"{url}/v1/models", headers={"host": "evil.example"})
        foreign = await client.post(
            f"{url}/lorikeet/v1/pull",
            json={"model": "law"},
            headers={"origin": "https://evil.example"},
        )
        large = await client.post(f"{url}/v1/completions", content=b"x" * (MAX_BODY_BYTES + 1))

        async def endless() -> Any:
            for _ in range(20):
                yield b"x" * (MAX_BODY_BYTES // 10)

        unsized = await client.post(f"{url}/v1/completions", content=endless())
        fine = await client.get(f"{url}/healthz", headers={"host": "localhost"})
    assert [one.status_code for one in (rebound, foreign, large, unsized, fine)] == [
        403,
        403,
        413,
        413,
        200,
    ]
    assert not any("access-control-allow-origin" in one.headers for one in (rebound, foreign, fine))


async def test_control_routes_speak_the_borders_values() -> None:
    twin = Twin()
    async with (
        serve_twin(twin) as url,
        httpx.AsyncClient(base_url=f"{url}/lorikeet/v1", trust_env=False) as client,
    ):
        assert (await client.get("/status")).json()["peer_id"] == PEER
        assert (await client.get("/adapters")).json()[0]["name"] == "law"
        assert (await client.get("/peers")).json()[0]["roles"] == ["volunteer"]
        assert (await client.get("/receipts")).json()[0]["digest"] == RECEIPT.digest
        assert (await client.get(f"/receipts/{RECEIPT.digest}")).content == b"\x93signed"
        assert (await client.get("/earnings")).json()[0]["credited"] == 620
        assert (await client.post("/pull", json={"model": "law"})).json()["blocks_by_peer"] == {
            "16Uiu2HAmOther": 8
        }
        assert (await client.post("/unpin", json={"model": "law"})).json()["name"] == "law"
        assert (await client.post("/push", json={"folder": "/tmp/x"})).json()["cid"] == "bafkreilaw"
        assert (await client.post("/pull", json={"modle": "law"})).status_code == 400
        assert (await client.post("/pull", json={"model": "nobody"})).status_code == 404
        wrong = await client.get("/nothing")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "no_such_route")
    assert str(twin.pushed[0]) == "/tmp/x"


# --- tools ---

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}


def read(**fields: Any) -> CompletionRequest:
    body = {"model": "law", "messages": USER} | fields
    return parse(json.dumps(body).encode(), chat=True).requests[0]


def test_tools_and_what_came_of_calls_reach_the_daemon() -> None:
    history = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
    ]
    request = read(messages=history, tools=[TOOL], chat_template_kwargs={"enable_thinking": False})
    assert request.tools == (Tool("f", "d", {"type": "object", "properties": {}}),)
    assert request.template_options == {"enable_thinking": False}
    assert request.prompt == (
        ChatMessage("user", "May I?"),
        ChatMessage("assistant", "", (ToolCall("c1", "f", '{"a": 1}'),)),
        ChatMessage("tool", "42", tool_call_id="c1"),
    )


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, ToolChoice("auto")),
        ({"tool_choice": "none"}, ToolChoice("none")),
        ({"tool_choice": "required"}, ToolChoice("required")),
        ({"parallel_tool_calls": False}, ToolChoice("auto", is_parallel=False)),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            ToolChoice("required", only="f", is_parallel=False),
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": [TOOL]},
                }
            },
            ToolChoice("required"),
        ),
    ],
)
def test_each_tool_choice_is_read(fields: dict[str, Any], choice: ToolChoice) -> None:
    request = read(tools=[TOOL], **fields)
    assert request.tool_choice == choice
    assert [tool.name for tool in request.tools] == ["f"]


def test_what_clients_add_and_no_answer_depends_on_is_left_out() -> None:
    part = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    answered = {"role": "assistant", "content": None, "reasoning_content": "hm", "annotations": []}
    request = read(
        messages=[{"role": "developer", "content": [part], "name": "x"}, *USER, answered],
        stop=None,
        n=None,
        tools=None,
        tool_choice=None,
        stream_options=None,
        user="me",
        metadata={"a": "b"},
        store=False,
        top_p=0,
        top_k=-1,
        temperature=0.7,
        skip_special_tokens=True,
        ignore_eos=False,
    )
    assert request.prompt == (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "May I?"),
        ChatMessage("assistant", ""),
    )
    assert (request.choosing.temperature, request.choosing.top_p) == (0.0, 1.0)
    assert request.choosing.top_k == 0
    assert request.max_tokens is None
    assert read(max_tokens=1 << 40).max_tokens == 1 << 40


def test_prompts_come_as_texts_or_token_ids_one_or_several() -> None:
    def prompts(given: Any, **fields: Any) -> list[Any]:
        body = {"model": "base", "prompt": given} | fields
        return [one.prompt for one in parse(json.dumps(body).encode(), chat=False).requests]

    assert prompts("a") == ["a"]
    assert prompts(["a", "b"], n=2, best_of=2) == ["a", "a", "b", "b"]
    assert prompts([5, 6]) == [TokenPrompt((5, 6))]
    assert prompts([[5], [6, 7]]) == [TokenPrompt((5,)), TokenPrompt((6, 7))]
    for wrong in (["a", 5], [[5], 6], ["a"] * 129, [True], [[["a"]]], []):
        with pytest.raises(BadField) as caught:
            prompts(wrong)
        assert caught.value.field.startswith("prompt")
    with pytest.raises(BadField, match="suffix"):
        prompts("a", suffix="b")
    with pytest.raises(BadField, match="best_of"):
        prompts("a", best_of=3)


async def test_the_official_client_reads_several_prompts_answers() -> None:
    async with serve_twin(Twin()) as url:
        answer = await ask(
            url,
            lambda client: client.completions.create(
                model="base", prompt=["Once", "Twice"], max_tokens=3, n=2
            ),
        )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (14, 12)


async def test_the_official_client_reads_calls_both_ways() -> None:
    calls = (ToolCall("call_1", "f", '{"a": 1}'), ToolCall("call_2", "g", "{}"))
    async with serve_twin(Twin(calls=calls)) as url:
        whole = await ask(
            url,
            lambda client: client.chat.completions.create(model="law", messages=USER, tools=[TOOL]),
        )

        def question(client: openai.OpenAI) -> Any:
            with client.chat.completions.stream(model="law", messages=USER, tools=[TOOL]) as stream:
                return stream.get_final_completion()

        streamed = await ask(url, question)
    for answer in (whole, streamed):
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "".join(WORDS[:2])
        assert [(one.id, one.type) for one in choice.message.tool_calls] == [
            ("call_1", "function"),
            ("call_2", "function"),
        ]
        assert [
            (one.function.name, json.loads(one.function.arguments))
            for one in choice.message.tool_calls
        ] == [("f", {"a": 1}), ("g", {})]


async def test_a_host_that_the_operator_names_comes_in_and_no_other() -> None:
    async with (
        serve_twin(Twin(), allowed_hosts=("Host.Docker.Internal",)) as url,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        named = await client.get(f"{url}/healthz", headers={"host": "host.docker.internal:4180"})
        other = await client.get(f"{url}/healthz", headers={"host": "docker.internal:4180"})
    assert (named.status_code, other.status_code) == (200, 403)
    assert "allowed_hosts" in other.json()["error"]["message"]

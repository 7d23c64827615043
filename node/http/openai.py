"""Decides what an OpenAI-shaped body asks for.

Pure: bytes in, checked questions out; knows no socket and no daemon, nor how a chat message is read
(turns.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.messages import MAX_LOGPROBS, Choosing, Grammar

from ..api.answers import CompletionRequest, Prompt, TokenPrompt
from . import terms
from .fields import BadField, convert, read_object, refuse_unknown
from .turns import (
    NamedTool,
    ToolField,
    Turn,
    as_messages,
    as_tools,
    refuse_unknown_in_turns,
)

MAX_ANSWERS = 16
MAX_ALL_ANSWERS = 128
MAX_IDS = 1 << 17
MAX_STOP_STRINGS = 4
MAX_MESSAGES = 1024
OPENAI_MAX_TEMPERATURE = 2.0  # nodes take more, but a client written for OpenAI means a mistake
OPENAI_MAX_PENALTY = 2.0
DEFAULT_TEMPERATURE = 1.0  # OpenAI's own default

# Taken as they come; the body says what a grammar is in its own way.
CHOOSING = frozenset(Choosing.__struct_fields__) - {"grammar"}


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`: whether a last chunk reports the token counts."""

    include_usage: bool = False


class Extension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`lorikeet` in a request: `node` is the peer id that must answer; the answer must match
    `regex`. A `private` answer tells nobody whose text it drew on.
    """

    node: str | None = None
    regex: str | None = None
    private: bool = False


class NamedSchema(msgspec.Struct, frozen=True):
    """`response_format.json_schema`.

    Its name and description are accepted and not used; every schema is enforced strictly.
    """

    schema: dict[str, Any] = {}


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that both kinds of body share, beside those of `Choosing`, which have the same
    names and bounds here.
    """

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=OPENAI_MAX_TEMPERATURE)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    seed: int | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_ANSWERS)] | None = None
    presence_penalty: (
        Annotated[float, Meta(ge=-OPENAI_MAX_PENALTY, le=OPENAI_MAX_PENALTY)] | None
    ) = None
    frequency_penalty: (
        Annotated[float, Meta(ge=-OPENAI_MAX_PENALTY, le=OPENAI_MAX_PENALTY)] | None
    ) = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    lorikeet: Extension | None = None


class ChatBody(Body, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MAX_MESSAGES)]
    tools: list[ToolField] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None


class TextBody(Body, frozen=True, kw_only=True):
    """POST /v1/completions. `prompt` is one text, several, one text's token ids, or several's."""

    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=MAX_IDS)]
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_ANSWERS)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None


@dataclass(frozen=True)
class Asked:
    """The questions, each once per wanted answer (these differ in their seeds), and how the answers
    are to be sent. `num_answers`: how many of `requests` in a row have one prompt.
    """

    requests: tuple[CompletionRequest, ...]
    chat: bool
    stream: bool
    include_usage: bool
    num_answers: int = 1


def parse(data: bytes, *, chat: bool) -> Asked:
    """Read one body. Raises BadField."""
    fields = read_object(data)
    kind: type[ChatBody] | type[TextBody] = ChatBody if chat else TextBody
    refuse_unknown(fields, known=CHOOSING | frozenset(kind.__struct_fields__))
    body = convert(fields, kind)
    if chat:
        refuse_unknown_in_turns(fields["messages"])
    stream = bool(body.stream)
    if body.stream_options is not None and not stream:
        raise BadField(
            "stream_options", "stream_options is only allowed together with stream: true"
        )
    usage = body.stream_options is not None and body.stream_options.include_usage
    choosing = as_choosing(body, fields)
    num_answers = body.n or 1
    prompts: Sequence[Prompt]
    if isinstance(body, ChatBody):
        request = as_chat_request(body, choosing)
        prompts = (request.prompt,)
    else:
        request = as_request(body, choosing)
        prompts = as_prompts(body.prompt)
        _check_best_of(body)
        if body.max_tokens == 0 and not body.echo:
            raise BadField("max_tokens", "max_tokens: 0 answers nothing without echo: true")
        request = replace(request, echo=bool(body.echo))
    if num_answers * len(prompts) > MAX_ALL_ANSWERS:
        raise BadField(
            "prompt",
            f"{len(prompts)} prompts with {num_answers} answers each are more than the"
            f" {MAX_ALL_ANSWERS} answers that one request may ask for",
        )
    requests = tuple(
        replace(request, prompt=prompt, seed=seed_of(request.seed, number))
        for prompt in prompts
        for number in range(num_answers)
    )
    return Asked(requests, chat, stream, usage, num_answers)


def as_chat_request(body: ChatBody, choosing: Choosing) -> CompletionRequest:
    """Convert a checked body of turns to the daemon's form."""
    tools, choice = as_tools(body.tools, body.tool_choice, is_parallel=body.parallel_tool_calls)
    return replace(
        as_request(body, choosing),
        prompt=as_messages(body.messages),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        tools=tools,
        tool_choice=choice,
        template_options=body.chat_template_kwargs or {},
    )


def as_request(body: ChatBody | TextBody, choosing: Choosing) -> CompletionRequest:
    """Convert what all checked bodies have, all but the prompt, to the daemon's form."""
    return CompletionRequest(
        model=body.model,
        prompt="",
        max_tokens=body.max_tokens,
        choosing=choosing,
        logprobs=as_logprobs(body),
        stop=as_stop(body.stop),
        seed=None if body.seed is None else body.seed % (1 << 63),
        node=None if body.lorikeet is None else body.lorikeet.node,
        private=body.lorikeet is not None and body.lorikeet.private,
    )


def as_choosing(body: ChatBody | TextBody, fields: Mapping[str, Any]) -> Choosing:
    """Read how tokens are to be chosen, within the node's bounds."""
    asked = {name: fields[name] for name in CHOOSING if fields.get(name) is not None}
    if asked.get("top_k") == -1:  # as other servers of this API say "off"
        asked["top_k"] = 0
    biases = as_biases(body.logit_bias or {})
    return terms.as_choosing(
        {"temperature": DEFAULT_TEMPERATURE} | asked | {"logit_bias": biases}, as_grammar(body)
    )


def seed_of(seed: int | None, number: int) -> int | None:
    """Return the seed of one of several answers.

    The first has the request's own; without one none is reproducible.
    """
    if seed is None or number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(b"answer %d of seed %d" % (number, seed)).digest()[:7])


def as_biases(biases: Mapping[str, float]) -> list[tuple[int, float]]:
    """Read logit biases; token ids are JSON object keys, so they come as text."""
    for key in biases:
        if not key.isdecimal():
            raise BadField("logit_bias", f"logit_bias names {key!r}; its keys are token ids")
    return sorted((int(key), value) for key, value in biases.items())


def as_grammar(body: ChatBody | TextBody) -> Grammar | None:
    """Read what the answer must match, given in one of two ways."""
    wanted = body.response_format
    regex = None if body.lorikeet is None else body.lorikeet.regex
    if regex is not None:
        if wanted is not None and wanted.type != "text":
            raise BadField(
                "lorikeet.regex",
                "lorikeet.regex and response_format both say what the answer must match; give one"
                " of them",
            )
        return Grammar("regex", regex)
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Grammar("json_schema", '{"type":"object"}')
    if wanted.json_schema is None:
        raise BadField(
            "response_format.json_schema",
            "response_format has type json_schema but no json_schema; give one with a schema in it",
        )
    return Grammar("json_schema", msgspec.json.encode(wanted.json_schema.schema).decode())


def as_logprobs(body: ChatBody | TextBody) -> int | None:
    """Return how many likely tokens to report beside each one; None to report no log-probabilities
    at all.
    """
    if isinstance(body, TextBody):
        return body.logprobs
    if not body.logprobs:
        if body.top_logprobs:
            raise BadField("top_logprobs", "top_logprobs needs logprobs: true")
        return None
    return body.top_logprobs or 0


def as_prompts(given: str | list[str | int | list[int]]) -> list[Prompt]:
    """Return the prompts: one text or several, one text's token ids or several's."""
    if isinstance(given, str):
        return [given]
    if all(isinstance(one, int) for one in given):
        return [TokenPrompt(tuple(one for one in given if isinstance(one, int)))]
    prompts = [TokenPrompt(tuple(one)) if isinstance(one, list) else one for one in given]
    kinds = {type(one) for one in prompts}
    if len(kinds) > 1:
        raise BadField("prompt", "prompt mixes texts and token ids; send one kind")
    return [one for one in prompts if not isinstance(one, int)]


def _check_best_of(body: TextBody) -> None:
    if body.best_of not in (None, 1, body.n or 1):
        raise BadField(
            "best_of",
            f"best_of={body.best_of} is not supported here: ask for n={body.best_of} and choose"
            " among them by their log-probabilities",
        )


def as_stop(stop: str | list[str] | None) -> tuple[str, ...]:
    """Return the stop texts; an empty one is refused, since it would end every answer."""
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in texts:
        raise BadField("stop", "a stop text must not be empty")
    return texts

"""Decides what an OpenAI-shaped body asks for.

Pure: bytes in, a checked question out; knows no socket and no daemon.

An unknown parameter that might change the answer is refused by name: an answer that silently
ignores part of the request would be a lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from engine.messages import MAX_LOGPROBS, Choosing, ChoosingError, Grammar, choosing_from

from ..api import ChatMessage, CompletionRequest

Kind = TypeVar("Kind")

MAX_ANSWERS = 16
MAX_STOP_STRINGS = 4
MAX_MESSAGES = 1024
OPENAI_MAX_TEMPERATURE = 2.0  # nodes take more, but a client written for OpenAI means a mistake
OPENAI_MAX_PENALTY = 2.0
DEFAULT_TEMPERATURE = 1.0  # OpenAI's own default

# Taken as they come; the body says what a grammar is in its own way.
CHOOSING = frozenset(Choosing.__struct_fields__) - {"grammar"}

# Never change the answer: labels and hints for somebody else's billing.
IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    }
)

# Would change the answer, but not with these values. `null` is neutral everywhere.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "suffix": ("",),
}


class BadField(Exception):
    """The body asks for something that cannot be given; `field` says where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`: whether a last chunk reports the token counts."""

    include_usage: bool = False


class Extension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`lorikeet` in a request: `node` is the peer id that must answer; the answer must match
    `regex`.
    """

    node: str | None = None
    regex: str | None = None


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


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a message's content; only text is accepted."""

    type: str
    text: str


class Turn(msgspec.Struct, frozen=True):
    """One chat message as it came."""

    role: str
    content: str | list[TextPart]


class ChatBody(Body, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None


class TextBody(Body, frozen=True, kw_only=True):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None


@dataclass(frozen=True)
class Asked:
    """The question, once per wanted answer (they differ in their seeds), and how the answers are to
    be sent.
    """

    requests: tuple[CompletionRequest, ...]
    chat: bool
    stream: bool
    include_usage: bool


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
    request = as_request(body, as_choosing(body, fields))
    return Asked(
        tuple(
            replace(request, seed=seed_of(request.seed, number)) for number in range(body.n or 1)
        ),
        chat,
        stream,
        usage,
    )


def read_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`."""
    try:
        fields = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadField("body", f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadField("body", "the body must be a JSON object")
    return fields


def convert(fields: object, kind: type[Kind]) -> Kind:
    """Check values against types and limits."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".") or missing_field(message)
        raise BadField(field, f"{field}: {message}") from None


def missing_field(message: str) -> str:
    """Extract the name from "Object missing required field `name`"."""
    return message.split("`")[1] if message.count("`") >= 2 else "body"


def refuse_unknown(fields: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise BadField for the first unknown field that might change the answer."""
    for name, value in fields.items():
        if value is None or name in known or name in IGNORED:
            continue
        neutral = NEUTRAL.get(name, ())
        if not any(type(value) is type(one) and value == one for one in neutral):
            hint = (
                f"; only {' or '.join(msgspec.json.encode(one).decode() for one in neutral)} is"
                " accepted"
                if neutral
                else ""
            )
            raise BadField(
                name,
                f"{name}={shorten(value)} is not supported here{hint}. Remove it: it would be"
                " ignored otherwise.",
            )


def refuse_unknown_in_turns(turns: list[dict[str, Any]]) -> None:
    """Refuse tool calls and the like inside a message; empty ones pass, since clients echo them
    back.
    """
    for index, turn in enumerate(turns):
        for name, value in turn.items():
            if name not in ("role", "content", "name") and value not in (None, [], {}):
                raise BadField(
                    f"messages[{index}].{name}",
                    f"messages[{index}].{name}={shorten(value)} is not supported here. Remove it.",
                )


def shorten(value: object, limit: int = 60) -> str:
    """Shorten a value so that it fits into a message."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= limit else text[:limit] + "…"


def as_request(body: ChatBody | TextBody, choosing: Choosing) -> CompletionRequest:
    """Convert a checked body to the daemon's form."""
    limit = body.max_tokens
    if isinstance(body, ChatBody):
        limit = body.max_completion_tokens or limit
    return CompletionRequest(
        model=body.model,
        prompt=(
            tuple(as_message(index, turn) for index, turn in enumerate(body.messages))
            if isinstance(body, ChatBody)
            else as_text(body.prompt)
        ),
        max_tokens=limit,
        choosing=choosing,
        logprobs=as_logprobs(body),
        stop=as_stop(body.stop),
        seed=None if body.seed is None else body.seed % (1 << 63),
        node=None if body.lorikeet is None else body.lorikeet.node,
    )


def as_choosing(body: ChatBody | TextBody, fields: Mapping[str, Any]) -> Choosing:
    """Read how tokens are to be chosen, within the node's bounds."""
    asked = {name: fields[name] for name in CHOOSING if fields.get(name) is not None}
    try:
        return choosing_from(
            {"temperature": DEFAULT_TEMPERATURE}
            | asked
            | {"logit_bias": as_biases(body.logit_bias or {}), "grammar": as_grammar(body)}
        )
    except ChoosingError as error:
        raise BadField(error.field, str(error)) from None


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


def as_text(prompt: str | list[str]) -> str:
    """Return the one prompt."""
    return prompt if isinstance(prompt, str) else prompt[0]


def as_stop(stop: str | list[str] | None) -> tuple[str, ...]:
    """Return the stop texts; an empty one is refused, since it would end every answer."""
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in texts:
        raise BadField("stop", "a stop text must not be empty")
    return texts


def as_message(index: int, turn: Turn) -> ChatMessage:
    """Return one turn with its parts joined; "developer" is OpenAI's newer word for "system"."""
    role = "system" if turn.role == "developer" else turn.role
    if role not in ("system", "user", "assistant"):
        raise BadField(
            f"messages[{index}].role",
            f"role {turn.role!r} is not supported; use system, user or assistant",
        )
    if isinstance(turn.content, str):
        return ChatMessage(role, turn.content)
    for part in turn.content:
        if part.type != "text":
            raise BadField(
                f"messages[{index}].content", f"a {part.type!r} part is not supported; send text"
            )
    return ChatMessage(role, "".join(part.text for part in turn.content))

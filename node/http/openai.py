"""What an OpenAI-shaped body asks. Pure: bytes in, a checked question out; knows no socket and no daemon.

A parameter that we do not know and that might change the answer is refused by name: an answer that silently ignores what was asked is a lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from ..api import ChatMessage, CompletionRequest

Kind = TypeVar("Kind")

MAX_STOP_STRINGS = 4
MAX_ANSWER_TOKENS = 8192
MAX_MESSAGES = 1024
DEFAULT_TEMPERATURE = 1.0  # OpenAI's own default
DEFAULT_MAX_TOKENS = 128

# Never change the answer: labels and hints for somebody else's billing.
IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"}
)

# Would change the answer, but not with these values. `null` is neutral everywhere.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
}


class BadField(Exception):
    """The body asks for something that cannot be given; `field` is where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`: whether a last chunk counts the tokens."""

    include_usage: bool = False


class Extension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`lorikeet` in a request: `node` is the peer id that must answer."""

    node: str | None = None


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that both kinds of body share."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_ANSWER_TOKENS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    lorikeet: Extension | None = None


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a message's content; only text is understood."""

    type: str
    text: str


class Turn(msgspec.Struct, frozen=True):
    """One chat message as it came."""

    role: str
    content: str | list[TextPart]


class ChatBody(Body, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=MAX_ANSWER_TOKENS)] | None = None


class TextBody(Body, frozen=True, kw_only=True):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=1)]


@dataclass(frozen=True)
class Asked:
    """The question, and how its answer is to be sent."""

    request: CompletionRequest
    chat: bool
    stream: bool
    include_usage: bool


def parse(data: bytes, *, chat: bool) -> Asked:
    """Read one body; raises `BadField`."""
    fields = read_object(data)
    kind: type[ChatBody] | type[TextBody] = ChatBody if chat else TextBody
    refuse_unknown(fields, known=frozenset(kind.__struct_fields__))
    body = convert(fields, kind)
    if chat:
        refuse_unknown_in_turns(fields["messages"])
    stream = bool(body.stream)
    if body.stream_options is not None and not stream:
        raise BadField("stream_options", "stream_options is only allowed together with stream: true")
    usage = body.stream_options is not None and body.stream_options.include_usage
    return Asked(as_request(body), chat, stream, usage)


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`."""
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
    """The name in "Object missing required field `name`"."""
    return message.split("`")[1] if message.count("`") >= 2 else "body"


def refuse_unknown(fields: Mapping[str, Any], known: frozenset[str]) -> None:
    """Name the first field that might change the answer and is not understood."""
    for name, value in fields.items():
        if value is None or name in known or name in IGNORED:
            continue
        neutral = NEUTRAL.get(name, ())
        if not any(type(value) is type(one) and value == one for one in neutral):
            hint = f"; only {' or '.join(msgspec.json.encode(one).decode() for one in neutral)} is accepted" if neutral else ""
            raise BadField(name, f"{name}={shorten(value)} is not supported here{hint}. Remove it: it would be ignored otherwise.")


def refuse_unknown_in_turns(turns: list[dict[str, Any]]) -> None:
    """Tool calls and the like inside a message are refused too; empty ones are what a client echoes back."""
    for index, turn in enumerate(turns):
        for name, value in turn.items():
            if name not in ("role", "content", "name") and value not in (None, [], {}):
                raise BadField(f"messages[{index}].{name}", f"messages[{index}].{name}={shorten(value)} is not supported here. Remove it.")


def shorten(value: object, limit: int = 60) -> str:
    """A value as it may stand in a message."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= limit else text[:limit] + "…"


def as_request(body: ChatBody | TextBody) -> CompletionRequest:
    """The daemon's form of a checked body."""
    limit = body.max_tokens
    if isinstance(body, ChatBody):
        limit = body.max_completion_tokens or limit
    return CompletionRequest(
        model=body.model,
        prompt=tuple(as_message(index, turn) for index, turn in enumerate(body.messages)) if isinstance(body, ChatBody) else as_text(body.prompt),
        max_tokens=limit or DEFAULT_MAX_TOKENS,
        temperature=DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
        top_k=body.top_k or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=as_stop(body.stop),
        seed=None if body.seed is None else body.seed % (1 << 63),
        node=None if body.lorikeet is None else body.lorikeet.node,
    )


def as_text(prompt: str | list[str]) -> str:
    """The one prompt."""
    return prompt if isinstance(prompt, str) else prompt[0]


def as_stop(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop texts; an empty one would end every answer."""
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in texts:
        raise BadField("stop", "a stop text must not be empty")
    return texts


def as_message(index: int, turn: Turn) -> ChatMessage:
    """One turn with its parts joined; "developer" is what "system" used to be called."""
    role = "system" if turn.role == "developer" else turn.role
    if role not in ("system", "user", "assistant"):
        raise BadField(f"messages[{index}].role", f"role {turn.role!r} is not supported; use system, user or assistant")
    if isinstance(turn.content, str):
        return ChatMessage(role, turn.content)
    for part in turn.content:
        if part.type != "text":
            raise BadField(f"messages[{index}].content", f"a {part.type!r} part is not supported; send text")
    return ChatMessage(role, "".join(part.text for part in turn.content))

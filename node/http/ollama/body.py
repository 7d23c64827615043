"""Decides what the body of an Ollama request asks for.

Pure: bytes in, a checked question out; knows no socket and no daemon. What its options say stands
in options.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from engine.messages import Grammar

from ...api.answers import ChatMessage, CompletionRequest, EmbeddingRequest, Prompt, Tool, ToolCall
from ..fields import BadField, convert, read_object, shorten
from ..terms import ANY_OBJECT, need, schema_grammar
from .options import choosing_of, known_options, max_tokens_of, seed_of, stop_of

MAX_MESSAGES = 4096
MAX_TOOLS = 512
MAX_INPUTS = 2048
LATEST = ":latest"


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and generate share; `keep_alive` and `think` change nothing here."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None


class ChatBody(Body, frozen=True, kw_only=True):
    """POST /api/chat."""

    messages: Annotated[list[dict[str, Any]], Meta(max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None


class GenerateBody(Body, frozen=True, kw_only=True):
    """POST /api/generate."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None


class EmbedBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/embed."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | Annotated[list[str], Meta(min_length=1, max_length=MAX_INPUTS)]
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class ShowBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/show; older clients say `name`."""

    model: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Asked:
    """A question, None where the model is only to be loaded, and whether a stream is wanted."""

    request: CompletionRequest | None
    model: str
    stream: bool


def parse(data: bytes, *, chat: bool) -> Asked:
    """Read the body of a chat or of a generation. Raises BadField."""
    fields = {name: value for name, value in read_object(data).items() if value is not None}
    kind: type[ChatBody] | type[GenerateBody] = ChatBody if chat else GenerateBody
    _refuse_unknown(fields, frozenset(kind.__struct_fields__))
    body = convert(fields, kind)
    stream = body.stream is not False
    prompt = _turns(body) if isinstance(body, ChatBody) else _prompt(body)
    if not prompt:
        return Asked(None, body.model, stream)
    options = known_options(body.options or {})
    tools = (body.tools if isinstance(body, ChatBody) else None) or ()
    request = CompletionRequest(
        model=body.model.removesuffix(LATEST),
        prompt=prompt,
        max_tokens=max_tokens_of(options),
        choosing=choosing_of(options, _grammar(body.format)),
        stop=stop_of(options),
        seed=seed_of(options),
        tools=tuple(_tool(f"tools[{at}]", tool) for at, tool in enumerate(tools)),
    )
    return Asked(request, body.model, stream)


def parse_embed(data: bytes) -> EmbeddingRequest:
    """Read the body of /api/embed. Raises BadField."""
    fields = {name: value for name, value in read_object(data).items() if value is not None}
    body = convert(fields, EmbedBody)
    inputs = (body.input,) if isinstance(body.input, str) else tuple(body.input)
    return EmbeddingRequest(body.model.removesuffix(LATEST), inputs, body.dimensions)


def parse_show(data: bytes) -> str:
    """Return the model that a body of /api/show names. Raises BadField."""
    body = convert(read_object(data), ShowBody)
    return (body.model or body.name or "").removesuffix(LATEST)


def _refuse_unknown(fields: Mapping[str, Any], known: frozenset[str]) -> None:
    for name, value in fields.items():
        if name not in known and value not in ("", [], {}, False):
            raise BadField(
                name, f"{name}={shorten(value)} is not served here. Remove it, it would be ignored."
            )


def _grammar(wanted: str | Mapping[str, Any] | None) -> Grammar | None:
    if not wanted:
        return None
    if isinstance(wanted, Mapping):
        return schema_grammar(wanted)
    if wanted != "json":
        raise BadField("format", f"format is {wanted!r}; use json or a JSON schema")
    return ANY_OBJECT


# --- turns ---


def _prompt(body: GenerateBody) -> Prompt:
    if body.raw or not body.prompt:
        return body.prompt or ""
    system = (ChatMessage("system", body.system),) if body.system else ()
    return (*system, ChatMessage("user", body.prompt))


def _turns(body: ChatBody) -> tuple[ChatMessage, ...]:
    turns: list[ChatMessage] = []
    waiting: list[ToolCall] = []  # Ollama's results need not say which call they are of
    for at, message in enumerate(body.messages or ()):
        turn = _turn(f"messages[{at}]", message, waiting)
        waiting += turn.tool_calls
        turns.append(turn)
    return tuple(turns)


def _turn(where: str, message: Mapping[str, Any], waiting: list[ToolCall]) -> ChatMessage:
    role = need(message, "role", where)
    if role not in ("system", "user", "assistant", "tool"):
        raise BadField(
            f"{where}.role", f"{where}.role is {role!r}; use system, user, assistant or tool"
        )
    if message.get("images"):
        raise BadField(f"{where}.images", "images are not served; this base reads text alone")
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise BadField(f"{where}.content", f"{where}.content must be a text")
    if role == "tool":
        return ChatMessage("tool", content, tool_call_id=_answered(message, waiting))
    given = message.get("tool_calls") or []
    if not isinstance(given, list):
        raise BadField(f"{where}.tool_calls", f"{where}.tool_calls must be a list")
    calls = [_call(f"{where}.tool_calls[{at}]", call) for at, call in enumerate(given)]
    return ChatMessage(role, content, tuple(calls))


def _call(where: str, call: object) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise BadField(where, f"{where} must have a function with name and arguments")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    call_id = call.get("id")
    return ToolCall(
        call_id if isinstance(call_id, str) and call_id else _new_id(),
        need(function, "name", f"{where}.function"),
        text,
    )


def _answered(message: Mapping[str, Any], waiting: list[ToolCall]) -> str:
    """Say which call a result is of: the one it names, else the first without a result."""
    named = message.get("tool_call_id")
    if isinstance(named, str) and named:
        return named
    name = message.get("tool_name") or message.get("name")
    for call in waiting:
        if name in (None, call.name):
            waiting.remove(call)
            return call.id
    return _new_id()


def _new_id() -> str:
    return f"call_{secrets.token_hex(6)}"


def _tool(where: str, tool: Mapping[str, Any]) -> Tool:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise BadField(where, f"{where} must be of type function, with a function")
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadField(f"{where}.function.parameters", f"{where}: parameters must be a JSON schema")
    return Tool(
        need(function, "name", f"{where}.function"),
        str(function.get("description") or ""),
        parameters,
    )

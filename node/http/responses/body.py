"""Decides what the body of a /v1/responses request asks for.

Pure: bytes in, a checked question out. What came before it is looked up through `Remembered`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from engine.messages import MAX_LOGPROBS, Choosing, Grammar

from ...api.answers import ChatMessage, CompletionRequest, Tool, ToolCall, ToolChoice
from ..fields import IGNORED, BadField, convert, read_object, shorten
from ..openai import DEFAULT_TEMPERATURE, Extension
from ..terms import ANY_OBJECT, choosing_in, need, schema_grammar, text_of, with_call

MAX_ITEMS = 2048
MAX_TOOLS = 128
LOGPROBS = "message.output_text.logprobs"
TEXT_PARTS = ("input_text", "output_text", "text", "refusal")

# Never change an answer here: labels, hints, and bounds of tools that run at OpenAI.
HINTS = IGNORED | {"reasoning", "max_tool_calls", "stream_options", "moderation", "verbosity"}

# Taken, and have no other value here.
ONLY: Mapping[str, tuple[object, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "truncation": ("disabled", "auto"),
}


class Format(msgspec.Struct, frozen=True):
    """`text.format`; a schema's name, description and `strict` are taken and not used."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    schema: dict[str, Any] | None = None


class TextSettings(msgspec.Struct, frozen=True):
    """`text`."""

    format: Format | None = None


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/responses, beside the fields of `Choosing`."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | Annotated[list[dict[str, Any]], Meta(max_length=MAX_ITEMS)] = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    stream: bool | None = None
    seed: int | None = None
    lorikeet: Extension | None = None


class Remembered(Protocol):
    """What earlier requests left behind; raises BadField for what is not there."""

    def conversation(self, response_id: str) -> tuple[ChatMessage, ...]:
        """Return all turns up to and with a response."""

    def item(self, item_id: str) -> Mapping[str, Any]:
        """Return an item that a response gave."""


@dataclass(frozen=True)
class Asked:
    """A request, the turns in it but for its instructions, and what is told back beside its answer.

    `items` are the input as items.
    """

    request: CompletionRequest
    turns: tuple[ChatMessage, ...]
    items: tuple[Mapping[str, Any], ...]
    body: Body
    tools: tuple[Mapping[str, Any], ...]
    tool_choice: object
    format: Mapping[str, Any]

    @property
    def stores(self) -> bool:
        """Return whether the answer is remembered."""
        return self.body.store is not False


def parse(data: bytes, remembered: Remembered) -> Asked:
    """Read one body. Raises BadField."""
    fields = {name: value for name, value in read_object(data).items() if value is not None}
    _refuse_unknown(fields)
    body = convert(fields, Body)
    tools = [_tool(f"tools[{at}]", tool) for at, tool in enumerate(body.tools or ())]
    choice, tools = _choice(body, tools)
    before = remembered.conversation(body.previous_response_id) if body.previous_response_id else ()
    items = as_items(body.input)
    turns = (*before, *as_turns(items, remembered))
    if not turns:
        raise BadField("input", "input is empty; send a text or a list of items")
    request = CompletionRequest(
        model=body.model,
        prompt=((ChatMessage("system", body.instructions), *turns) if body.instructions else turns),
        max_tokens=body.max_output_tokens,
        choosing=choosing_in(fields, DEFAULT_TEMPERATURE, _grammar(body)),
        logprobs=_logprobs(body),
        seed=None if body.seed is None else body.seed % (1 << 63),
        node=body.lorikeet.node if body.lorikeet else None,
        tools=tuple(tools),
        tool_choice=choice,
    )
    text = fields.get("text", {})
    return Asked(
        request=request,
        turns=turns,
        items=items,
        body=body,
        tools=tuple(body.tools or ()),
        tool_choice=body.tool_choice or "auto",
        format=text.get("format") or {"type": "text"},
    )


def _refuse_unknown(fields: Mapping[str, Any]) -> None:
    known = set(Body.__struct_fields__) | HINTS | set(Choosing.__struct_fields__) - {"grammar"}
    for name, value in fields.items():
        if name not in known and value not in ONLY.get(name, ([], {})):
            raise BadField(
                name, f"{name}={shorten(value)} is not served here. Remove it, it would be ignored."
            )


def _grammar(body: Body) -> Grammar | None:
    if body.lorikeet is not None and body.lorikeet.regex is not None:
        return Grammar("regex", body.lorikeet.regex)
    wanted = body.text.format if body.text else None
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.schema is None:
        raise BadField("text.format.schema", "text.format is a json_schema without its schema")
    return schema_grammar(wanted.schema)


def _logprobs(body: Body) -> int | None:
    if body.top_logprobs or LOGPROBS in (body.include or ()):
        return body.top_logprobs or 0
    return None


# --- tools ---


def _tool(where: str, tool: Mapping[str, Any]) -> Tool:
    if tool.get("type") != "function":
        raise BadField(
            f"{where}.type",
            f"{where} is of type {tool.get('type')!r}; only functions are served, which the client"
            " runs itself",
        )
    parameters = tool.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadField(f"{where}.parameters", f"{where}.parameters must be a JSON schema")
    return Tool(need(tool, "name", where), str(tool.get("description") or ""), parameters)


def _choice(body: Body, tools: list[Tool]) -> tuple[ToolChoice, list[Tool]]:
    """Read `tool_choice`; with allowed_tools, those alone are left."""
    given = body.tool_choice
    parallel = body.parallel_tool_calls is not False
    if given is None or given in ("auto", "none", "required"):
        mode: Any = given or "auto"
        return ToolChoice(mode, is_parallel=parallel), tools
    if isinstance(given, dict) and given.get("type") == "function":
        name = need(given, "name", "tool_choice")
        _known("tool_choice.name", name, tools)
        return ToolChoice("required", name, is_parallel=parallel), tools
    if isinstance(given, dict) and given.get("type") == "allowed_tools":
        names = [str(one.get("name")) for one in given.get("tools", []) if isinstance(one, dict)]
        for name in names:
            _known("tool_choice.tools", name, tools)
        mode = "required" if given.get("mode") == "required" else "auto"
        allowed = [tool for tool in tools if tool.name in names]
        return ToolChoice(mode, is_parallel=parallel), allowed
    raise BadField(
        "tool_choice",
        f"tool_choice={shorten(given)} is not served; use auto, none, required, a function or"
        " allowed_tools",
    )


def _known(field: str, name: str, tools: Sequence[Tool]) -> None:
    if name not in [tool.name for tool in tools]:
        raise BadField(field, f"{field} names {name!r}, which is not among tools")


# --- items ---


def as_items(given: str | Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return an input as items; a text is a user's message."""
    if isinstance(given, str):
        content = [{"type": "input_text", "text": given}]
        return ({"type": "message", "role": "user", "content": content},) if given else ()
    return tuple(given)


def as_turns(items: Sequence[Mapping[str, Any]], remembered: Remembered) -> tuple[ChatMessage, ...]:
    """Return items as chat turns; calls that follow one another are one turn's. Raises BadField."""
    turns: list[ChatMessage] = []
    for at, item in enumerate(items):
        turns = _add(turns, f"input[{at}]", item, remembered)
    return tuple(turns)


def _add(
    turns: list[ChatMessage], where: str, item: Mapping[str, Any], remembered: Remembered
) -> list[ChatMessage]:
    match item.get("type", "message"):
        case "message":
            return [*turns, _message(where, item)]
        case "function_call":
            call = ToolCall(
                need(item, "call_id", where),
                need(item, "name", where),
                str(item.get("arguments") or "{}"),
            )
            return with_call(turns, call)
        case "function_call_output":
            output = text_of(f"{where}.output", item.get("output"), TEXT_PARTS)
            return [
                *turns,
                ChatMessage("tool", output, tool_call_id=need(item, "call_id", where)),
            ]
        case "item_reference":
            return _add(turns, where, remembered.item(need(item, "id", where)), remembered)
        case "reasoning":
            return turns  # no base here reads another model's thoughts
        case kind:
            raise BadField(
                f"{where}.type",
                f"{where} is of type {kind!r}; message, function_call, function_call_output and"
                " item_reference are served",
            )


def _message(where: str, item: Mapping[str, Any]) -> ChatMessage:
    role = need(item, "role", where)
    if role not in ("system", "developer", "user", "assistant"):
        raise BadField(
            f"{where}.role", f"{where}.role is {role!r}; use system, developer, user or assistant"
        )
    content = text_of(f"{where}.content", item.get("content"), TEXT_PARTS)
    return ChatMessage("system" if role == "developer" else role, content)

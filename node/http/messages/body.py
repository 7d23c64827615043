"""Decides what the body of an Anthropic message asks for.

Pure: bytes in, a checked question out; knows no socket and no daemon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from engine.messages import Choosing, Grammar

from ...api.answers import ChatMessage, CompletionRequest, Tool, ToolCall, ToolChoice
from ..fields import BadField, convert, read_object, shorten
from ..openai import Extension
from ..terms import choosing_in, need, schema_grammar, text_of, with_call

MAX_MESSAGES = 4096
MAX_TOOLS = 512
MAX_STOPS = 16
DEFAULT_TEMPERATURE = 1.0  # Anthropic's own default
THOUGHTS = ("thinking", "redacted_thinking")

# Never change an answer here: labels, hints, and thoughts, of which none are given.
HINTS = frozenset(
    {
        "metadata",
        "service_tier",
        "thinking",
        "cache_control",
        "inference_geo",
        "betas",
        "container",
        "context_management",
    }
)


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/messages, beside the fields of `Choosing`."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    seed: int | None = None
    lorikeet: Extension | None = None


@dataclass(frozen=True)
class Asked:
    """A request, and whether its answer is sent as a stream."""

    request: CompletionRequest
    stream: bool


def parse(data: bytes, *, counts: bool = False) -> Asked:
    """Read one body; one that only `counts` needs no max_tokens. Raises BadField."""
    fields = {name: value for name, value in read_object(data).items() if value is not None}
    known = set(Body.__struct_fields__) | HINTS | set(Choosing.__struct_fields__) - {"grammar"}
    for name, value in fields.items():
        if name not in known and value not in ([], {}):
            raise BadField(
                name, f"{name}={shorten(value)} is not served here. Remove it, it would be ignored."
            )
    body = convert(fields, Body)
    if body.max_tokens is None and not counts:
        raise BadField("max_tokens", "max_tokens must be there, from 1 on")
    stops = tuple(body.stop_sequences or ())
    if "" in stops:
        raise BadField("stop_sequences", "a stop sequence must not be empty")
    tools = tuple(_tool(f"tools[{at}]", tool) for at, tool in enumerate(body.tools or ()))
    request = CompletionRequest(
        model=body.model,
        prompt=_turns(body),
        max_tokens=body.max_tokens,
        choosing=choosing_in(fields, DEFAULT_TEMPERATURE, _grammar(body)),
        stop=stops,
        seed=None if body.seed is None else body.seed % (1 << 63),
        node=body.lorikeet.node if body.lorikeet else None,
        tools=tools,
        tool_choice=_choice(body.tool_choice, tools),
    )
    return Asked(request, bool(body.stream))


def _grammar(body: Body) -> Grammar | None:
    if body.lorikeet is not None and body.lorikeet.regex is not None:
        return Grammar("regex", body.lorikeet.regex)
    wanted = body.output_format or (body.output_config or {}).get("format")
    if wanted is None:
        return None
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        raise BadField(
            "output_config.format", f"the format {shorten(wanted)} is not served; use json_schema"
        )
    return schema_grammar(need(wanted, "schema", "output_config.format", dict))


# --- tools ---


def _tool(where: str, tool: Mapping[str, Any]) -> Tool:
    if tool.get("type", "custom") != "custom":
        raise BadField(
            f"{where}.type",
            f"{where} is of type {tool['type']!r}; only tools of the client's own are served, with"
            " a name and an input_schema",
        )
    schema = need(tool, "input_schema", where, dict)
    return Tool(need(tool, "name", where), str(tool.get("description") or ""), schema)


def _choice(given: Mapping[str, Any] | None, tools: Sequence[Tool]) -> ToolChoice:
    choice = given or {"type": "auto"}
    parallel = choice.get("disable_parallel_tool_use") is not True
    match choice.get("type"):
        case "auto":
            return ToolChoice("auto", is_parallel=parallel)
        case "none":
            return ToolChoice("none")
        case "any":
            return ToolChoice("required", is_parallel=parallel)
        case "tool":
            name = need(choice, "name", "tool_choice")
            if name not in [tool.name for tool in tools]:
                raise BadField(
                    "tool_choice.name",
                    f"tool_choice.name is {name!r}, which is not among tools",
                )
            return ToolChoice("required", name, is_parallel=parallel)
        case kind:
            raise BadField(
                "tool_choice.type",
                f"tool_choice.type is {kind!r}; it must be auto, any, tool or none",
            )


# --- turns ---


def _turns(body: Body) -> tuple[ChatMessage, ...]:
    turns: list[ChatMessage] = []
    system = text_of("system", body.system, ("text",))
    if system:
        turns.append(ChatMessage("system", system))
    for at, message in enumerate(body.messages):
        where = f"messages[{at}]"
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise BadField(f"{where}.role", f"{where}.role is {role!r}; use user or assistant")
        turns = _blocks(turns, where, role, message.get("content"))
    if body.messages[-1].get("role") == "assistant":
        raise BadField(
            "messages",
            "the last message is the assistant's; an answer that is begun for it is not served:"
            " end with a user's message",
        )
    return tuple(turns)


def _blocks(turns: list[ChatMessage], where: str, role: str, content: object) -> list[ChatMessage]:
    if isinstance(content, str):
        return _say(turns, role, content)
    if not isinstance(content, list):
        raise BadField(f"{where}.content", f"{where}.content must be a text or a list of blocks")
    for at, block in enumerate(content):
        turns = _block(turns, f"{where}.content[{at}]", role, block)
    return turns


def _block(turns: list[ChatMessage], where: str, role: str, block: object) -> list[ChatMessage]:
    if not isinstance(block, dict):
        raise BadField(where, f"{where} must be a content block")
    match block.get("type"), role:
        case "text", _:
            return _say(turns, role, need(block, "text", where))
        case "tool_use", "assistant":
            given = need(block, "input", where, dict)
            call = ToolCall(
                need(block, "id", where),
                need(block, "name", where),
                msgspec.json.encode(given).decode(),
            )
            return with_call(turns, call)
        case "tool_result", "user":
            text = text_of(f"{where}.content", block.get("content"), ("text",))
            if block.get("is_error") is True:
                text = f"Error: {text}"
            result = ChatMessage("tool", text, tool_call_id=need(block, "tool_use_id", where))
            return [*turns, result]
        case kind, "assistant" if kind in THOUGHTS:
            return turns  # no base here reads another model's thoughts
        case kind, _:
            raise BadField(
                f"{where}.type",
                f"{where} is of type {kind!r}, as the {role}'s; text, tool_use (assistant) and"
                " tool_result (user) are served",
            )


def _say(turns: list[ChatMessage], role: str, text: str) -> list[ChatMessage]:
    """Add a text; what one role says in a row is one turn, as Anthropic has it."""
    last = turns[-1] if turns else None
    if last is None or last.role != role or last.tool_calls:
        return [*turns, ChatMessage(role, text)]
    joined = "\n\n".join(part for part in (last.content, text) if part)
    return [*turns[:-1], ChatMessage(role, joined)]

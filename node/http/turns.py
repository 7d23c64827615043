"""Reads OpenAI's chat messages, tools and tool choice into the daemon's own.

Pure. What clients send back of an earlier answer and nobody needs is left out; what would be lost
is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ..api.answers import ChatMessage, Tool, ToolCall, ToolChoice
from .fields import BadField, shorten

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""OpenAI's newer word for "system" is "developer"."""

MODES: tuple[Literal["auto", "none", "required"], ...] = ("auto", "none", "required")

# What answers carry and clients echo back, and labels for somebody else's cache.
ECHOED = frozenset(
    {
        *("name", "refusal", "annotations", "audio", "reasoning", "reasoning_content"),
        *("reasoning_details", "cache_control", "id", "status", "metadata", "provider_metadata"),
    }
)


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content; only text is accepted."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """A call's function; `arguments` is JSON text."""

    name: str
    arguments: str | dict[str, Any] | None = None


class Called(msgspec.Struct, frozen=True):
    """A call in an assistant's turn."""

    function: CalledFunction
    id: str = ""
    type: str = "function"


class Turn(msgspec.Struct, frozen=True):
    """One chat message as it came."""

    role: str
    content: str | list[Part | str] | None = None
    tool_calls: list[Called] | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct, frozen=True):
    """A tool's function. `strict` is accepted: every call follows its schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolField(msgspec.Struct, frozen=True):
    """One of `tools`."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct, frozen=True):
    """The function in a choice or a list of tools."""

    name: str


class AllowedTools(msgspec.Struct, frozen=True):
    """`tool_choice.allowed_tools`: calls may or must be of these tools."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1)]


class NamedTool(msgspec.Struct, frozen=True):
    """`tool_choice` where it is an object, or one of those allowed."""

    type: Literal["function", "allowed_tools"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


def as_messages(turns: Sequence[Turn]) -> tuple[ChatMessage, ...]:
    """Read all turns. Raises BadField."""
    return tuple(_message(index, turn) for index, turn in enumerate(turns))


def refuse_unknown_in_turns(turns: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what a message says beside what is read of it; what is empty passes. Raises
    BadField.
    """
    known = ECHOED | frozenset(Turn.__struct_fields__)
    for index, turn in enumerate(turns):
        for name, value in turn.items():
            if name not in known and value not in (None, [], {}, ""):
                hint = "; use tool_calls" if name == "function_call" else ""
                raise BadField(
                    f"messages[{index}].{name}",
                    f"messages[{index}].{name}={shorten(value)} is not supported here{hint}."
                    " Remove it.",
                )


def as_tools(
    fields: Sequence[ToolField] | None,
    choice: str | NamedTool | None,
    *,
    is_parallel: bool | None,
) -> tuple[tuple[Tool, ...], ToolChoice]:
    """Read the tools that may be called, and whether one must be. Raises BadField."""
    tools = tuple(_tool(field.function) for field in fields or ())
    parallel = is_parallel is not False
    if choice is None:
        return tools, ToolChoice(is_parallel=parallel)
    if isinstance(choice, str):
        for mode in MODES:
            if choice == mode:
                return tools, ToolChoice(mode, is_parallel=parallel)
        raise BadField(
            "tool_choice",
            f"tool_choice is {shorten(choice)}; use none, auto, required or a function's name in"
            ' {"type": "function", "function": {"name": …}}',
        )
    if choice.allowed_tools is not None:
        allowed = [each.function.name for each in choice.allowed_tools.tools if each.function]
        kept = tuple(tool for tool in tools if tool.name in allowed)
        if len(kept) < len(set(allowed)):
            raise BadField("tool_choice", f"tool_choice allows {allowed}; not all are tools")
        return kept, ToolChoice(choice.allowed_tools.mode, is_parallel=parallel)
    if choice.function is None:
        raise BadField("tool_choice.function", "tool_choice names no function")
    return tools, ToolChoice("required", only=choice.function.name, is_parallel=False)


def _tool(function: Function) -> Tool:
    return Tool(function.name, function.description or "", function.parameters or {})


def _message(index: int, turn: Turn) -> ChatMessage:
    text = _text(index, turn.content)
    if turn.role == "tool":
        if not turn.tool_call_id:
            raise BadField(
                f"messages[{index}].tool_call_id",
                f"messages[{index}] is of a tool and has no tool_call_id; say which call it"
                " answers",
            )
        return ChatMessage("tool", text, tool_call_id=turn.tool_call_id)
    role = ROLES.get(turn.role)
    if role is None:
        raise BadField(
            f"messages[{index}].role",
            f"role {turn.role!r} is not supported; use system, user, assistant or tool",
        )
    if turn.tool_calls and role != "assistant":
        raise BadField(
            f"messages[{index}].tool_calls", f"a turn of the {turn.role} cannot call tools"
        )
    if turn.content is None and role != "assistant":
        raise BadField(f"messages[{index}].content", f"messages[{index}] has no content")
    return ChatMessage(role, text, tuple(_call(each) for each in turn.tool_calls or ()))


def _call(called: Called) -> ToolCall:
    given = called.function.arguments
    text = given if isinstance(given, str) else msgspec.json.encode(given or {}).decode()
    return ToolCall(called.id, called.function.name, text)


def _text(index: int, content: str | Sequence[Part | str] | None) -> str:
    """Return a content with its parts joined."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        text = (
            part if isinstance(part, str) else part.text if part.text is not None else part.refusal
        )
        if text is None or not (isinstance(part, str) or part.type in ("text", "refusal")):
            kind = "" if isinstance(part, str) else part.type
            raise BadField(
                f"messages[{index}].content", f"a {kind!r} part is not supported; send text"
            )
        texts.append(text)
    return "".join(texts)

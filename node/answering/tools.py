"""Tells how a base speaks of tools: what its template is given, and how its model writes calls.

A template that takes `tools` lays them out itself, and the texts in it tell the form in which the
model was trained to call (FORMS). One that knows none gets a block of ours before the first turn,
and calls and results are laid out as plain turns, all in Hermes's form. Knows no vocabulary and no
face's shapes; call_grammar.py binds an answer to a form, call_reader.py reads it back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..api.answers import ChatMessage, Tool, ToolCall

SHORT_ID_CHARS = 9
MARKERS = ("</tool_call>", "[ARGS]", "<|/tool_call|>")


@dataclass(frozen=True)
class Form:
    """How a family of models writes calls.

    `before` stands once before all calls, `after` behind them, `between` between two. One call is
    `opening` with its name for NAME, its arguments as JSON, `closing`. `triggers` are the texts
    after which nothing but calls follows; one that is empty means that a call is an answer's very
    beginning. `mark` in a template tells the form. With `has_short_ids` its templates take ids of
    nine letters and digits alone.
    """

    mark: str
    triggers: tuple[str, ...]
    opening: str
    closing: str
    before: str = ""
    between: str = ""
    after: str = ""
    has_short_ids: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """Return the texts that may be tokens of their own, which decoding would leave out."""
        return tuple(text for text in (*self.triggers, *MARKERS) if text)


HERMES = Form(
    mark="<tool_call>",
    triggers=("<tool_call>",),
    opening='<tool_call>\n{"name": "NAME", "arguments": ',
    closing="}\n</tool_call>",
    between="\n",
)
MISTRAL_ARGS = Form(
    mark="[ARGS]",
    triggers=("[TOOL_CALLS]",),
    opening="[TOOL_CALLS]NAME[ARGS]",
    closing="",
    has_short_ids=True,
)
MISTRAL = Form(
    mark="[TOOL_CALLS]",
    triggers=("[TOOL_CALLS]",),
    before="[TOOL_CALLS][",
    opening='{"name": "NAME", "arguments": ',
    closing="}",
    between=", ",
    after="]",
    has_short_ids=True,
)
PHI = Form(
    mark="<|/tool_call|>",
    triggers=("<|tool_call|>",),
    before="<|tool_call|>[",
    opening='{"name": "NAME", "arguments": ',
    closing="}",
    between=", ",
    after="]<|/tool_call|>",
)
GRANITE = replace(PHI, mark="<|tool_call|>", after="]")
LLAMA = Form(
    mark="",
    triggers=("", "<|python_tag|>"),
    opening='{"name": "NAME", "parameters": ',
    closing="}",
    between="; ",
)
FORMS = (HERMES, MISTRAL_ARGS, MISTRAL, PHI, GRANITE, LLAMA)
"""The first whose mark a template has; Llama 3's, which marks nothing, is what is left."""


def form_of(template: str, *, knows_tools: bool) -> Form:
    """Return how the model behind a template writes calls."""
    if not knows_tools:
        return HERMES
    return next(form for form in FORMS if form.mark in template)


def as_functions(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Return tools as templates take them; None where there are none."""
    functions = [
        {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
        for tool in tools
    ]
    return [{"type": "function", "function": each} for each in functions] or None


def as_turns(messages: Sequence[ChatMessage], form: Form) -> list[dict[str, Any]]:
    """Return turns as templates that know tools take them."""
    return [_turn(message, form) for message in messages]


def _turn(message: ChatMessage, form: Form) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": _id(call.id, form),
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        turn["tool_call_id"] = _id(message.tool_call_id, form)
    return turn


def _id(given: str, form: Form) -> str:
    is_short = len(given) == SHORT_ID_CHARS and given.isalnum() and given.isascii()
    if not form.has_short_ids or is_short:
        return given
    return hashlib.sha256(given.encode()).hexdigest()[:SHORT_ID_CHARS]


def _arguments(call: ToolCall) -> Any:
    """Return arguments as templates take them, an object; as they came where they are none."""
    try:
        read = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments
    return read if isinstance(read, dict) else call.arguments


# --- a base whose template knows no tools ---


def explained(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> tuple[ChatMessage, ...]:
    """Lay tools, calls and results out in turns that any template takes."""
    turns: list[ChatMessage] = []
    for at, message in enumerate(messages):
        turn = _plain(message)
        if message.role == "tool" and at and messages[at - 1].role == "tool":
            # Results of calls side by side: templates want user and assistant by turns.
            turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n{turn.content}")
        else:
            turns.append(turn)
    if tools:
        first = turns.pop(0) if turns and turns[0].role == "system" else ChatMessage("system", "")
        texts = [text for text in (first.content, _block(tools)) if text]
        turns.insert(0, ChatMessage("system", "\n\n".join(texts)))
    return tuple(turns)


def _plain(message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        return ChatMessage("user", f"<tool_response>\n{message.content}\n</tool_response>")
    parts = [message.content] if message.content else []
    for call in message.tool_calls:
        opening = HERMES.opening.replace("NAME", call.name)
        parts.append(f"{opening}{call.arguments or '{}'}{HERMES.closing}")
    return ChatMessage(message.role, "\n".join(parts))


def _block(tools: Sequence[Tool]) -> str:
    functions = as_functions(tools) or ()
    listed = "\n".join(json.dumps(each, ensure_ascii=False) for each in functions)
    call = HERMES.opening.replace("NAME", "the function's name") + "{…}" + HERMES.closing
    return (
        "You may call functions to answer the user. These are the functions, each with the JSON"
        f" schema of its arguments:\n<tools>\n{listed}\n</tools>\n"
        f"To call one, write nothing but this, once for each call:\n{call}\n"
        "What it returns comes in the next message, between <tool_response> and </tool_response>."
        " Where no function helps, answer in your own words."
    )

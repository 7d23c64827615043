"""Reads what the bodies of several APIs say in the same way: how tokens are chosen, texts, schemas.

Pure. Raises BadField, as node/http/fields.py does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.messages import Choosing, ChoosingError, Grammar, choosing_from

from ..api.answers import ChatMessage, ToolCall
from .fields import BadField


def as_choosing(terms: Mapping[str, object], grammar: Grammar | None) -> Choosing:
    """Read how tokens are chosen; what is None is left at its default, `top_p` 0 is greedy."""
    given = {name: value for name, value in terms.items() if value is not None}
    if given.get("top_p") == 0:
        given |= {"top_p": 1.0, "temperature": 0.0}
    try:
        return choosing_from(given | ({"grammar": grammar} if grammar else {}))
    except ChoosingError as error:
        raise BadField(error.field, str(error)) from None


def choosing_in(
    fields: Mapping[str, object], temperature: float, grammar: Grammar | None
) -> Choosing:
    """Read how tokens are chosen from the fields of a body that has our names for it, and of which
    an API has its own `temperature` where there is none.
    """
    names = set(Choosing.__struct_fields__) - {"grammar", "logit_bias"}
    terms = {name: value for name, value in fields.items() if name in names}
    return as_choosing({"temperature": temperature} | terms, grammar)


def schema_grammar(schema: Mapping[str, Any]) -> Grammar:
    """Have an answer match a JSON schema."""
    return Grammar("json_schema", msgspec.json.encode(schema).decode())


ANY_OBJECT = schema_grammar({"type": "object"})


def text_of(field: str, content: object, kinds: Sequence[str]) -> str:
    """Join a content that is a text or a list of text parts of the named `kinds`."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadField(field, f"{field} must be a text or a list of parts")
    return "".join(_part(f"{field}[{at}]", part, kinds) for at, part in enumerate(content))


def _part(field: str, part: object, kinds: Sequence[str]) -> str:
    if isinstance(part, dict) and part.get("type") in kinds:
        text = part.get("refusal" if part["type"] == "refusal" else "text")
        if isinstance(text, str):
            return text
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise BadField(
        field, f"{field}: a part of type {kind!r} is not served; this base reads text alone"
    )


def with_call(turns: Sequence[ChatMessage], call: ToolCall) -> list[ChatMessage]:
    """Add a call to the assistant's turn that ends `turns`, or as a turn of its own."""
    last = turns[-1] if turns else None
    if last is None or last.role != "assistant":
        return [*turns, ChatMessage("assistant", "", (call,))]
    return [*turns[:-1], ChatMessage("assistant", last.content, (*last.tool_calls, call))]


def need(fields: Mapping[str, Any], name: str, where: str, kind: type = str) -> Any:
    """Return a field of an item that must be there. Raises BadField."""
    value = fields.get(name)
    if not isinstance(value, kind):
        raise BadField(
            f"{where}.{name}", f"{where}.{name} must be there, as {_called(kind)}; it is {value!r}"
        )
    return value


def _called(kind: type) -> str:
    return "a text" if kind is str else "an object"

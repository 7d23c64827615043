"""Reads JSON bodies: an object within types and bounds, or an error that names the field.

Pure. An unknown parameter that might change the answer is refused by name: an answer that silently
ignores part of the request would be a lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

Kind = TypeVar("Kind")

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
        "cache_control",
    }
)

# Would change the answer, but not with these values. `null` is neutral everywhere.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "suffix": ("",),
    # Of other servers of this API, at what they are here.
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "use_beam_search": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}
INSTEAD: Mapping[str, str] = {"functions": "tools", "function_call": "tool_choice"}


class BadField(Exception):
    """The body asks for something that cannot be given; `field` says where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


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
            raise BadField(
                name,
                f"{name}={shorten(value)} is not supported here{_hint(name, neutral)}. Remove it:"
                " it would be ignored otherwise.",
            )


def _hint(name: str, neutral: Sequence[object]) -> str:
    if name in INSTEAD:
        return f"; use {INSTEAD[name]}"
    values = " or ".join(msgspec.json.encode(one).decode() for one in neutral)
    return f"; only {values} is accepted" if values else ""


def shorten(value: object, limit: int = 60) -> str:
    """Shorten a value so that it fits into a message."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= limit else text[:limit] + "…"

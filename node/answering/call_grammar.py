"""Writes the grammar of an answer that may or must call tools, in llguidance's Lark dialect.

    auto       text, or text up to a trigger and then nothing but calls
    required   nothing but calls

From a call's first letter on, its name is one of the tools' and its arguments follow that tool's
schema. Tools that are too long for one grammar are bound by their names alone. Decides no form
(tools.py) and knows no engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.messages import MAX_GRAMMAR_CHARS, Grammar

from ..api.answers import Tool, ToolChoice
from ..errors import BadRequest
from .tools import Form

MAX_CALLS = 16
JSON_OPTIONS = {
    "whitespace_pattern": r"[ \t]{0,2}(\r?\n[ \t]{0,16})?",  # as the engine bounds other JSON
    "lenient": True,  # keywords that no grammar follows are advice to the model
    "coerce_one_of": True,
}
ANY_TEXT = r"/(.|\n)*/"


def bind(
    form: Form,
    tools: Sequence[Tool],
    choice: ToolChoice,
    answer: Grammar | None,
    tags: Mapping[str, int],
) -> Grammar | None:
    """Return what an answer must match; `answer` is what its text must match where it calls
    nothing.

    `tags` are the vocabulary's tokens that a grammar takes by their ids alone and an answer may
    have. Raises BadRequest where the tools' names alone are too long.
    """
    if choice.only:
        tools = [tool for tool in tools if tool.name == choice.only]
    if not tools or choice.mode == "none":
        return answer
    writer = _Lark(form, tags, most=MAX_CALLS if choice.is_parallel else 1)
    start = writer.only_calls() if choice.mode == "required" else writer.text_or_calls(answer)
    for calls in (_one_by_one(form, tools, writer), _by_name(form, tools, writer)):
        text = "\n".join([*start, *calls, r"ws: /[ \n]{0,2}/", ""])
        if len(text) <= MAX_GRAMMAR_CHARS:
            return Grammar("lark", text)
    raise BadRequest(
        f"the names of {len(tools)} tools make a grammar of {len(text)} characters; the limit is"
        f" {MAX_GRAMMAR_CHARS}"
    )


class _Lark:
    """Writes the rules above the calls themselves."""

    def __init__(self, form: Form, tags: Mapping[str, int], most: int) -> None:
        self._form = form
        self._tags = {text: tag for text, tag in tags.items() if text in form.markers}
        others = ",".join(str(tag) for text, tag in tags.items() if text not in form.triggers)
        self._lines = f"(TEXT <[{others}]>)* " if others else ""  # text up to such a token
        self._more = f" (<[{others}]> TEXT)*" if others else ""
        more = f" ({self.atoms(form.between)} call)".replace("( ", "(")
        self._calls = f"{more}{{0,{most - 1}}}" if most > 1 else ""

    def only_calls(self, name: str = "start") -> list[str]:
        """Return the rule for nothing but calls."""
        form = self._form
        rule = f"{self.atoms(form.before)} call{self._calls} {self.atoms(form.after)}"
        return [f"{name}: {rule.strip()}"]

    def text_or_calls(self, answer: Grammar | None) -> list[str]:
        """Return the rules for text, or calls after a trigger; where that is no text, they are an
        answer's beginning.
        """
        if answer is not None:
            return ["start: answer | calls", _rule_of(answer), *self.only_calls("calls")]
        trigger = self._form.triggers[0]
        if not trigger:
            tags = [self.atoms(tag) for tag in self._form.triggers if tag in self._tags]
            lead = f"({' | '.join(tags)})? " if tags else ""
            return [
                f"start: BEGINNING{self._more} | {lead}calls",
                r"BEGINNING: /[ \n]*([^{ \n](.|\n)*)?/",
                f"TEXT: {ANY_TEXT}",
                *self.only_calls("calls"),
            ]
        rest = self._behind(trigger)
        if trigger in self._tags:
            start = f"start: {self._lines}TEXT ({self.atoms(trigger)} {rest})?"
            return [start, f"TEXT: {ANY_TEXT}"]
        quoted = re.escape(trigger).replace("/", r"\/")
        return [
            f"start: {self._lines}(TEXT | lead {rest})",
            rf"TEXT: {ANY_TEXT} & ~/(.|\n)*{quoted}(.|\n)*/",
            rf"lead[lazy]: /(.|\n)*{quoted}/",
        ]

    def _behind(self, trigger: str) -> str:
        """Return the rule for all calls when the first one's trigger was read."""
        form = self._form
        after = self.atoms(form.after)
        if form.before:
            before = self.atoms(form.before.removeprefix(trigger))
            return f"{before} call{self._calls} {after}".strip()
        return f"first{self._calls} {after}".strip()

    def atoms(self, text: str) -> str:
        """Return text as literals and control tokens; a line's end may be left out."""
        marks = [re.escape(mark) for mark in self._tags]
        parts = re.split("|".join([*(f"({mark})" for mark in marks), r"(\n)"]), text)
        return " ".join(self._atom(part) for part in parts if part)

    def _atom(self, part: str) -> str:
        if part == "\n":
            return "ws"
        token = self._tags.get(part)
        return json.dumps(part) if token is None else f"<[{token}]>"


def _one_by_one(form: Form, tools: Sequence[Tool], lark: _Lark) -> list[str]:
    """Return a rule for each tool, with its schema."""
    rules = []
    for at, tool in enumerate(tools):
        schema = json.dumps(_schema(tool.parameters), ensure_ascii=False)
        opening = form.opening.replace("NAME", tool.name)
        rules.append(f"a{at}: %json {schema}")
        rules.append(f"c{at}: {lark.atoms(opening)} a{at} {lark.atoms(form.closing)}".rstrip())
        behind = lark.atoms(opening.removeprefix(form.triggers[0]))
        rules.append(f"f{at}: {behind} a{at} {lark.atoms(form.closing)}".rstrip())
    every = range(len(tools))
    return _choices(form, lark, rules, [f"c{at}" for at in every], [f"f{at}" for at in every])


def _by_name(form: Form, tools: Sequence[Tool], lark: _Lark) -> list[str]:
    """Return one rule for all tools: a name, and any object."""
    before, after = form.opening.split("NAME")
    names = " | ".join(json.dumps(tool.name) for tool in tools)
    schema = json.dumps(_schema({"type": "object"}))
    rest = f"name {lark.atoms(after)} any {lark.atoms(form.closing)}".rstrip()
    behind = before.removeprefix(form.triggers[0])
    return _choices(
        form,
        lark,
        [
            f"name: {names}",
            f"any: %json {schema}",
            f"c0: {lark.atoms(before)} {rest}",
            f"f0: {lark.atoms(behind)} {rest}",
        ],
        ["c0"],
        ["f0"],
    )


def _choices(
    form: Form, lark: _Lark, rules: list[str], calls: list[str], firsts: list[str]
) -> list[str]:
    return [f"call: {' | '.join(calls)}", f"first: {' | '.join(firsts)}", *rules]


def _schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what arguments must match: an object, of what is declared alone."""
    schema: dict[str, Any] = {"type": "object", **parameters}
    schema["x-guidance"] = JSON_OPTIONS
    if "properties" in schema or not parameters:
        schema.setdefault("additionalProperties", False)
    return schema


def _rule_of(answer: Grammar) -> str:
    if answer.kind == "json_schema":
        return f"answer: %json {answer.text}"
    slashed = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", answer.text)
    return f"answer: /{slashed}/"

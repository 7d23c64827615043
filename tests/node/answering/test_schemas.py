"""A schema becomes one that a grammar follows, and what is left out is told."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest

from engine.messages import Grammar
from node.answering.schemas import followable
from node.errors import BadRequest


def rewritten(schema: Any) -> tuple[Any, tuple[str, ...]]:
    grammar, told = followable(Grammar("json_schema", json.dumps(schema)))
    assert grammar is not None
    return json.loads(grammar.text), told


def holds(schema: Any, value: Any) -> bool:
    """Whether the grammar of the rewritten schema takes a value."""
    source = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(rewritten(schema)[0]))
    read = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(read, source, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = read.tokenize_str(json.dumps(value))
    return matcher.try_consume_tokens(ids) == len(ids) and bool(matcher.is_accepting())


@pytest.mark.parametrize(
    ("names", "good", "bad"),
    [
        (True, {"x": 1}, {"x": "1"}),
        ({"type": "string"}, {"x": 1}, {"x": "1"}),
        ({"pattern": "^a[0-9]$"}, {"a1": 1}, {"b1": 1}),
        ({"enum": ["a.b", "c"]}, {"a.b": 1}, {"aXb": 1}),
        ({"const": "c"}, {"c": 1}, {"d": 1}),
        ({"type": "string", "minLength": 2, "maxLength": 3}, {"ab": 1}, {"abcd": 1}),
    ],
)
def test_names_of_properties_are_bound_by_patterns(names: Any, good: Any, bad: Any) -> None:
    schema = {
        "type": "object",
        "propertyNames": names,
        "additionalProperties": {"type": "number"},
    }
    assert holds(schema, good)
    assert not holds(schema, bad)
    assert rewritten(schema)[1] == ()


def test_what_no_grammar_follows_is_left_out_and_told() -> None:
    tags = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    schema = {"type": "object", "properties": {"a": tags, "b": {**tags, "maxItems": 1}}}
    new, told = rewritten(schema)
    assert told == ("#/properties/a/uniqueItems",)
    assert "uniqueItems" not in json.dumps(new)
    either = {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 4}]}
    assert rewritten(either)[1] == ("#/oneOf",)
    assert holds(either, "abcdef")


@pytest.mark.parametrize(
    "choices",
    [
        [{"type": "string"}, {"type": "integer"}],
        [{"enum": [1, 2]}, {"const": 3}],
        [{"$ref": "#/$defs/C"}, {"$ref": "#/$defs/D"}],
    ],
)
def test_schemas_that_cannot_hold_at_once_stay_one_of(choices: list[Any]) -> None:
    kind = {
        name: {
            "type": "object",
            "properties": {"k": {"const": name}},
            "required": ["k"],
            "additionalProperties": False,
        }
        for name in ("C", "D")
    }
    new, told = rewritten({"oneOf": choices, "$defs": kind})
    assert told == ()
    assert "oneOf" in new


def test_formats_that_nobody_knows_say_nothing_and_known_ones_stay() -> None:
    assert holds({"type": "integer", "format": "int32"}, 5)
    assert holds({"type": "string", "format": "password"}, "x")
    assert not holds({"type": "string", "format": "date"}, "x")


def test_properties_that_nothing_evaluates_are_closed() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "unevaluatedProperties": False,
    }
    assert holds(schema, {"a": 1})
    assert not holds(schema, {"a": 1, "b": 1})


def test_names_and_values_that_look_like_keywords_stay_as_they_are() -> None:
    schema = {
        "type": "object",
        "properties": {"uniqueItems": {"type": "boolean"}, "format": {"const": {"oneOf": []}}},
    }
    assert rewritten(schema) == (schema, ())


@pytest.mark.parametrize("text", ["{", '{"items":' * 900 + "{}" + "}" * 900])
def test_what_is_no_schema_is_refused_in_words(text: str) -> None:
    with pytest.raises(BadRequest, match=r"no JSON|nested too deeply"):
        followable(Grammar("json_schema", text))

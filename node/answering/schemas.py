"""Rewrites a JSON schema into one that a grammar can follow; says what is left out.

    propertyNames            patternProperties
    uniqueItems              left out and told, where two items may be alike
    oneOf                    anyOf, and told, where two of its schemas may hold at once
    format                   left out where nobody knows it, as the specification says
    unevaluatedProperties    additionalProperties, where nothing else evaluates them

What is neither known here nor to the engine's grammar library, the engine refuses by name. Knows no
tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from engine.messages import Grammar

from ..errors import BadRequest

FORMATS = frozenset(
    {
        *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"),
        "uri",
    }
)
MAPS = ("properties", "patternProperties", "$defs", "definitions")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "not", "contains", "if", "then", "else")
MAX_TOLD = 16
MAX_DEPTH = 200


def followable(grammar: Grammar | None) -> tuple[Grammar | None, tuple[str, ...]]:
    """Return a grammar with its schema rewritten, and the places of what it leaves out. Raises
    BadRequest where a schema is nested too deeply.
    """
    if grammar is None or grammar.kind != "json_schema":
        return grammar, ()
    try:
        schema = json.loads(grammar.text)
        rewriter = _Rewriter(schema)
        text = json.dumps(rewriter.rewrite(schema, ()), ensure_ascii=False)
    except ValueError as error:
        raise BadRequest(f"the JSON schema is no JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest("the JSON schema is nested too deeply; flatten it") from error
    return Grammar("json_schema", text), tuple(rewriter.told[:MAX_TOLD])


class _Rewriter:
    def __init__(self, root: Any) -> None:
        self._root = root
        self.told: list[str] = []

    def rewrite(self, schema: Any, path: tuple[str, ...]) -> Any:
        """Return one schema, rewritten with all below it."""
        if not isinstance(schema, dict):
            return schema
        if len(path) > MAX_DEPTH:
            raise BadRequest("the JSON schema is nested too deeply; flatten it")
        schema = self._below(schema, path)
        self._unique_items(schema, path)
        self._one_of(schema, path)
        if schema.get("format") not in FORMATS:
            schema.pop("format", None)
        _name_properties(schema)
        _evaluate(schema)
        return schema

    def _below(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        new = dict(schema)
        for key in MAPS:
            if isinstance(each := new.get(key), dict):
                new[key] = {at: self.rewrite(one, (*path, key, at)) for at, one in each.items()}
        for key in LISTS:
            if isinstance(each := new.get(key), list):
                new[key] = [self.rewrite(one, (*path, key, str(at))) for at, one in enumerate(each)]
        for key in SINGLE:
            if key in new:
                new[key] = self.rewrite(new[key], (*path, key))
        return new

    def _unique_items(self, schema: dict[str, Any], path: tuple[str, ...]) -> None:
        most = schema.get("maxItems")
        if schema.pop("uniqueItems", False) is True and not (isinstance(most, int) and most <= 1):
            self._tell(path, "uniqueItems")

    def _one_of(self, schema: dict[str, Any], path: tuple[str, ...]) -> None:
        choices = schema.get("oneOf")
        if not isinstance(choices, list) or "anyOf" in schema:
            return
        whole = [self._resolve(choice) for choice in choices]
        if not all(_are_apart(one, other) for one, other in combinations(whole, 2)):
            self._tell(path, "oneOf")
            schema["anyOf"] = schema.pop("oneOf")

    def _resolve(self, schema: Any) -> Any:
        """Return what a local reference means."""
        seen = 0
        while isinstance(schema, dict) and isinstance(place := schema.get("$ref"), str):
            seen += 1
            if not place.startswith("#") or seen > 8:
                return {}
            schema = self._root
            for step in place[1:].strip("/").split("/") if place != "#" else ():
                step = step.replace("~1", "/").replace("~0", "~")
                schema = schema.get(step) if isinstance(schema, dict) else None
        return schema

    def _tell(self, path: Sequence[str], keyword: str) -> None:
        self.told.append("/".join(("#", *path, keyword)))


def _are_apart(one: Any, other: Any) -> bool:
    """Return whether it is plain that no value holds for both."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    types, others = _types(one), _types(other)
    if types and others and not types & others:
        return "integer" not in types | others or "number" not in types | others
    if _values(one) is not None and _values(other) is not None:
        return not set(_values(one) or ()) & set(_values(other) or ())
    mine, theirs = one.get("properties"), other.get("properties")
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return False
    needed = [each.get("required") for each in (one, other)]
    return any(
        all(isinstance(names, list) and name in names for names in needed)
        and _are_apart(mine[name], theirs[name])
        for name in mine.keys() & theirs.keys()
        if _values(mine[name]) is not None
    )


def _types(schema: Mapping[str, Any]) -> set[str]:
    given = schema.get("type")
    return {given} if isinstance(given, str) else set(given) if isinstance(given, list) else set()


def _values(schema: Any) -> list[str] | None:
    """Return the only values that a schema allows, as JSON."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return [json.dumps(schema["const"])]
    given = schema.get("enum")
    return [json.dumps(each) for each in given] if isinstance(given, list) else None


def _name_properties(schema: dict[str, Any]) -> None:
    """Say by patterns what properties may be called."""
    names = schema.get("propertyNames")
    if names is True or names in ({}, {"type": "string"}):
        del schema["propertyNames"]
        return
    if not isinstance(names, dict) or schema.get("properties") or "patternProperties" in schema:
        return
    pattern = _pattern(names)
    if pattern is not None:
        del schema["propertyNames"]
        rest = schema.get("additionalProperties", True)
        schema["patternProperties"] = {pattern: {} if rest is True else rest}
        schema["additionalProperties"] = False


def _pattern(names: Mapping[str, Any]) -> str | None:
    """Return the expression for names; None where it takes more than one keyword."""
    said = {key: value for key, value in names.items() if key not in ("type", "title")}
    if said.keys() == {"pattern"} and isinstance(said["pattern"], str):
        return said["pattern"]
    if said.keys() <= {"minLength", "maxLength"}:
        return rf"^(.|\n){{{said.get('minLength', 0)},{said.get('maxLength', '')}}}$"
    if said.keys() <= {"enum", "const"} and len(said) == 1:
        values = said.get("enum", [said.get("const")])
        if isinstance(values, list) and values and all(isinstance(one, str) for one in values):
            return f"^({'|'.join(re.escape(one) for one in values)})$"
    return None


def _evaluate(schema: dict[str, Any]) -> None:
    """Say by additionalProperties what nothing evaluates, where nothing hidden may."""
    hidden = {"allOf", "anyOf", "oneOf", "$ref", "if", "not", "additionalProperties"}
    if "unevaluatedProperties" in schema and not hidden & schema.keys():
        schema["additionalProperties"] = schema.pop("unevaluatedProperties")

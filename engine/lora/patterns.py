"""Matches module names against the keys of rank_pattern and alpha_pattern, by PEFT's rule:
`(.*\\.)?(KEY)$` from the name's start, the first key that matches.

Keys may be a stranger's regular expressions, so they run on a machine of states whose time is
linear in the name (Thompson, 1968), never by backtracking. Knows no adapter.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

MAX_KEY_CHARS = 400
MAX_EXPRESSIONS = 64
MAX_STATES = 2000
MAX_KNOWN_STEPS = 20_000
PLAIN_KEY = re.compile(r"\^?[A-Za-z0-9_.]{1,200}")

States = frozenset[int]


class PatternError(ValueError):
    """A key that is not followed; the message says why."""


class Patterns:
    """A mapping of keys to numbers, looked up by a module's name."""

    def __init__(self, given: Mapping[str, float]) -> None:
        self._values = list(given.values())
        expressions = [key for key in given if not PLAIN_KEY.fullmatch(key)]
        if len(expressions) > MAX_EXPRESSIONS:
            raise PatternError(
                f"it has {len(expressions)} regular expressions; at most {MAX_EXPRESSIONS} are"
                " served"
            )
        self._keys = [key if PLAIN_KEY.fullmatch(key) else Expression(key) for key in given]
        self._found: dict[str, float | None] = {}

    def find(self, module: str) -> float | None:
        """Return the number of the first key that matches."""
        if module not in self._found:
            hits = (
                value
                for key, value in zip(self._keys, self._values, strict=True)
                if (_ends_with(module, key) if isinstance(key, str) else key.matches(module))
            )
            self._found[module] = next(hits, None)
        return self._found[module]


def _ends_with(module: str, key: str) -> bool:
    """Return whether a plain key matches: the whole name or its tail after a dot, a dot of the key
    any letter.
    """
    tail = key.removeprefix("^")
    start = len(module) - len(tail)
    if start < 0 or (start > 0 and (tail != key or module[start - 1] != ".")):
        return False
    return all(want in (".", have) for want, have in zip(tail, module[start:], strict=True))


@dataclass
class _Machine:
    """States by number: `steps` take a character that passes a test, `jumps` take none, some of
    them only at the start or the end of the name.
    """

    steps: dict[int, tuple[Any, int]] = field(default_factory=dict)
    jumps: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    count: int = 0

    def new(self) -> int:
        self.count += 1
        if self.count > MAX_STATES:
            raise PatternError("it is too long once its repetitions are written out")
        return self.count - 1

    def jump(self, here: int, there: int, only_at: str = "") -> None:
        self.jumps.setdefault(here, []).append((there, only_at))


class Expression:
    """One key that is a regular expression. Raises PatternError for one that is not followed."""

    def __init__(self, key: str) -> None:
        if len(key) > MAX_KEY_CHARS:
            raise PatternError(f"it is longer than {MAX_KEY_CHARS} characters")
        try:
            with warnings.catch_warnings():
                # what other versions of Python would read otherwise is a stranger's, not ours
                warnings.simplefilter("ignore", FutureWarning)
                tree = sre_parser.parse(rf"(.*\.)?({key})$")
        except (re.error, RecursionError, OverflowError) as error:
            raise PatternError(f"it is no regular expression: {error}") from error
        if tree.state.flags & ~re.UNICODE:
            raise PatternError("flags are not served")
        self._machine = _Machine()
        self._start = self._machine.new()
        try:
            self._end = self._build(tree, self._start)
        except RecursionError as error:
            raise PatternError("its groups are nested too deeply") from error
        self._known: dict[tuple[States, str], States] = {}

    def matches(self, name: str) -> bool:
        """Return whether `re.match` would match the name."""
        states = self._closure((self._start,), at_start=True, at_end=not name)
        for at, character in enumerate(name):
            is_last = at == len(name) - 1
            key = (states, character + ("$" if is_last else ""))
            if key not in self._known:
                if len(self._known) >= MAX_KNOWN_STEPS:
                    self._known.clear()
                self._known[key] = self._step(states, character, is_last=is_last)
            states = self._known[key]
        return self._end in states

    def _step(self, states: States, character: str, *, is_last: bool) -> States:
        reached = (
            there
            for here in states
            if here in self._machine.steps
            for test, there in (self._machine.steps[here],)
            if _passes(test, character)
        )
        return self._closure(reached, at_start=False, at_end=is_last)

    def _closure(self, states: Iterable[int], *, at_start: bool, at_end: bool) -> States:
        found = set(states)
        todo = list(found)
        allowed = {"", *(["start"] if at_start else []), *(["end"] if at_end else [])}
        while todo:
            for there, only_at in self._machine.jumps.get(todo.pop(), ()):
                if only_at in allowed and there not in found:
                    found.add(there)
                    todo.append(there)
        return frozenset(found)

    def _build(self, tree: Any, here: int) -> int:
        """Add states for a parsed expression from `here` on; return where it ends."""
        for operation, argument in tree:
            here = self._add(operation, argument, here)
        return here

    def _add(self, operation: Any, argument: Any, here: int) -> int:
        machine = self._machine
        if operation in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
            there = machine.new()
            machine.steps[here] = ((operation, argument), there)
            return there
        if operation is sre.SUBPATTERN and not argument[1] and not argument[2]:
            return self._build(argument[3], here)
        if operation is sre.BRANCH:
            end = machine.new()
            for branch in argument[1]:
                start = machine.new()
                machine.jump(here, start)
                machine.jump(self._build(branch, start), end)
            return end
        if operation in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, body = argument
            return self._repeat(least, most, body, here)
        if operation is sre.AT and argument in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
            return self._anchor(here, "start")
        if operation is sre.AT and argument in (sre.AT_END, sre.AT_END_STRING):
            return self._anchor(here, "end")
        raise PatternError(f"{str(operation).lower()} is not served")

    def _anchor(self, here: int, only_at: str) -> int:
        there = self._machine.new()
        self._machine.jump(here, there, only_at)
        return there

    def _repeat(self, least: int, most: Any, body: Any, here: int) -> int:
        for _ in range(min(int(least), MAX_STATES)):
            here = self._build(body, here)
            self._machine.new()  # an empty body counts too, so that a bound is reached
        end = self._machine.new()
        self._machine.jump(here, end)
        if most is sre.MAXREPEAT:
            start = self._machine.new()
            self._machine.jump(here, start)
            self._machine.jump(self._build(body, start), here)
            return end
        for _ in range(min(int(most) - int(least), MAX_STATES)):
            start = self._machine.new()
            self._machine.jump(here, start)
            here = self._build(body, start)
            self._machine.jump(here, end)
        return end


def _passes(test: tuple[Any, Any], character: str) -> bool:
    operation, argument = test
    if operation is sre.LITERAL:
        return bool(ord(character) == argument)
    if operation is sre.NOT_LITERAL:
        return bool(ord(character) != argument)
    if operation is sre.ANY:
        return character != "\n"
    negated = argument[0][0] is sre.NEGATE
    return negated != any(_is_in(item, character) for item in argument[negated:])


CATEGORIES = {
    sre.CATEGORY_DIGIT: r"\d",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    sre.CATEGORY_WORD: r"\w",
    sre.CATEGORY_NOT_WORD: r"\W",
    sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S",
}


def _is_in(item: tuple[Any, Any], character: str) -> bool:
    kind, argument = item
    if kind is sre.LITERAL:
        return bool(ord(character) == argument)
    if kind is sre.RANGE:
        return bool(argument[0] <= ord(character) <= argument[1])
    return re.fullmatch(CATEGORIES[argument], character) is not None

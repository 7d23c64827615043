"""Reads calls of tools out of an answer's text as it comes, and hands on the rest as text.

    TEXT ──trigger──▶ CALLS ──a call's name──▶ VALUE (its arguments, handed on as they come)
      ◀──neither call nor separator──┘  ◀──────its end──────┘

Forgives what models do: spaces, lists, other names for the arguments, arguments as a string, fields
in another order. What turns out to be no call is text after all. Knows no tools and no schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from ..api.answers import CallDelta
from .tools import Form

Piece = str | CallDelta

NAMED = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]+)"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*'
)
ARGS = re.compile(r"([A-Za-z0-9_.:-]+)(?:\[CALL_ID\][A-Za-z0-9]+)?\[ARGS\]\s*")
ARGS_BEGUN = re.compile(r"[A-Za-z0-9_.:-]+(?:\[[A-Z_a-z0-9\]]*)?\s*")
SEPARATORS = " \t\r\n[],;"
ENDS = ("</tool_call>", "<|/tool_call|>", "</s>")


class _State(Enum):
    START = auto()
    TEXT = auto()
    CALLS = auto()
    VALUE = auto()
    TAIL = auto()


class Scan:
    """Finds where a JSON value ends, a piece at a time."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._is_escaped = False
        self._begun = depth > 0
        self.is_over = False

    def take(self, text: str) -> int:
        """Return how many of the letters belong to the value."""
        for at, letter in enumerate(text):
            if self._ends_before(letter):
                self.is_over = True
                return at
            if self.is_over:
                return at + 1
        return len(text)

    def _ends_before(self, letter: str) -> bool:
        """Take one letter in; return whether the value ended before it."""
        if self._in_string:
            self._in_string = self._is_escaped or letter != '"'
            self._is_escaped = letter == "\\" and not self._is_escaped
            self.is_over = not self._in_string and self._depth == 0
        elif letter == '"':
            self._in_string = True
        elif letter in "{[":
            self._depth += 1
        elif letter in "}]":
            self._depth -= 1
            self.is_over = self._depth == 0
            return self._depth < 0
        elif self._depth == 0 and letter in ", \t\r\n;":
            return self._begun
        self._begun = True
        return False


class CallReader:
    """One answer's reader; `new_id` names calls."""

    def __init__(self, form: Form, new_id: Callable[[], str]) -> None:
        self._form = form
        self._new_id = new_id
        self._triggers = tuple(text for text in form.triggers if text)
        self._state = _State.START if "" in form.triggers else _State.TEXT
        self._buffer = ""
        self._unproved = ""  # what was taken for the beginning of calls, until there is one
        self._index = -1
        self._scan = Scan()
        self._value = ""  # of arguments that are no object, kept until they are whole
        self._is_object = False
        self._in_object = False
        self._out: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """Take more text; return what is certain of it."""
        self._buffer += text
        while self._step():
            pass
        return self._drain()

    def flush(self) -> list[Piece]:
        """Return what was held back, at the answer's end."""
        if self._state is _State.VALUE and not self._is_object:
            self._end_value()
        elif self._state is _State.CALLS:
            whole = self._unproved + self._buffer
            self._say(whole if self._unproved or self._buffer.strip(SEPARATORS) else "")
        elif self._state is not _State.TAIL:
            self._say(self._buffer)
        self._buffer = ""
        return self._drain()

    def _drain(self) -> list[Piece]:
        out = self._out
        self._out = []
        return out

    def _say(self, text: str) -> None:
        if text:
            self._out.append(text)

    def _step(self) -> bool:
        """Go on by one piece; return whether there may be more to do."""
        match self._state:
            case _State.START:
                return self._begin()
            case _State.TEXT:
                return self._read_text()
            case _State.CALLS:
                return self._read_call()
            case _State.VALUE:
                return self._read_value()
            case _State.TAIL:
                return self._read_tail()

    def _begin(self) -> bool:
        """Decide whether an answer that may begin with a call does."""
        begun = self._buffer.lstrip()
        if any(mark.startswith(begun) and mark != begun for mark in self._triggers):
            return False
        is_call = begun.startswith(("{", *self._triggers))
        self._state = _State.CALLS if is_call else _State.TEXT
        return True

    def _read_text(self) -> bool:
        found = [(self._buffer.find(mark), mark) for mark in self._triggers]
        hits = sorted((at, mark) for at, mark in found if at >= 0)
        if hits:
            at, mark = hits[0]
            self._say(self._buffer[:at].rstrip())
            # The spaces before it belong to what may turn out to be text.
            self._unproved = self._buffer[len(self._buffer[:at].rstrip()) : at] + mark
            self._buffer = self._buffer[at + len(mark) :]
            self._state = _State.CALLS
            return True
        keep = max((_overlap(self._buffer, mark) for mark in self._triggers), default=0)
        sure = self._buffer[: len(self._buffer) - keep].rstrip()
        self._say(sure)
        self._buffer = self._buffer[len(sure) :]
        return False

    def _read_call(self) -> bool:
        """Find the next call's name, or that there is none."""
        rest = self._skip_separators()
        if self._may_be_mark(rest):
            return False
        if rest[0] == "{":
            return self._read_object(rest)
        if "[ARGS]" in self._form.opening:
            if found := ARGS.match(rest):
                return self._open(found[1], rest[found.end() :], in_object=False)
            if ARGS_BEGUN.fullmatch(rest):
                return False
        self._state = _State.TEXT
        self._buffer = self._unproved + self._buffer if self._unproved else rest
        if self._unproved:  # or it would be found again
            self._say(self._buffer[: len(self._unproved)])
            self._buffer = self._buffer[len(self._unproved) :]
        self._unproved = ""
        return bool(self._buffer)

    def _skip_separators(self) -> str:
        rest = self._buffer
        while not self._may_be_mark(rest):
            mark = next((one for one in (*self._triggers, *ENDS) if rest.startswith(one)), "")
            if not mark and rest[0] not in SEPARATORS:
                break
            rest = rest[len(mark) or 1 :]
        if not self._unproved:
            self._buffer = rest
        return rest

    def _may_be_mark(self, rest: str) -> bool:
        """Return whether more must come before it is clear what this is."""
        marks = (*self._triggers, *ENDS)
        return any(mark.startswith(rest) and mark != rest for mark in marks)

    def _read_object(self, rest: str) -> bool:
        if found := NAMED.match(rest):
            return self._open(found[1], rest[found.end() :], in_object=True)
        scan = Scan()
        length = scan.take(rest)
        if not scan.is_over:
            return False
        call = _call_of(rest[:length])
        if call is None:
            self._say(self._unproved + rest[:length])
            self._buffer = rest[length:]
            self._unproved = ""
            self._state = _State.TEXT
            return True
        self._unproved = ""
        self._start(call[0])
        self._out.append(CallDelta(self._index, call[1]))
        self._buffer = rest[length:]
        return True

    def _open(self, name: str, rest: str, *, in_object: bool) -> bool:
        self._unproved = ""
        self._buffer = rest
        self._start(name)
        self._scan = Scan()
        self._value = ""
        self._is_object = False
        self._in_object = in_object
        self._state = _State.VALUE
        return True

    def _start(self, name: str) -> None:
        self._index += 1
        self._out.append(CallDelta(self._index, "", self._new_id(), name))

    def _read_value(self) -> bool:
        if not self._value and not self._is_object:
            self._buffer = self._buffer.lstrip()
            self._is_object = self._buffer.startswith("{")
        if not self._buffer:
            return False
        length = self._scan.take(self._buffer)
        part = self._buffer[:length]
        self._buffer = self._buffer[length:]
        if not self._is_object:
            self._value += part
        elif part:
            self._out.append(CallDelta(self._index, part))
        if not self._scan.is_over:
            return False
        if not self._is_object:
            self._end_value()
        self._state = _State.TAIL if self._in_object else _State.CALLS
        self._scan = Scan(depth=1)
        return True

    def _end_value(self) -> None:
        """Hand on arguments that were no object."""
        self._out.append(CallDelta(self._index, _as_arguments(self._value)))
        self._value = ""

    def _read_tail(self) -> bool:
        """Leave out what else an object says behind the arguments."""
        self._buffer = self._buffer[self._scan.take(self._buffer) :]
        if not self._scan.is_over:
            return False
        self._state = _State.CALLS
        return True


def _overlap(text: str, mark: str) -> int:
    """Return how many of the last letters may be a mark's first ones."""
    sizes = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)


def _as_arguments(value: str) -> str:
    """Return arguments as JSON text of an object, where they are a string of it or nothing."""
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return value.strip()
    if isinstance(read, str):
        return read
    return "{}" if read is None else value.strip()


def _call_of(text: str) -> tuple[str, str] | None:
    """Return a whole object's name and arguments; None where it is no call."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return None
    called: Any = read.get("function", read)
    called = called if isinstance(called, dict) else {**read, "name": called}
    name = called.get("name")
    if not isinstance(name, str) or not name:
        return None
    given = called.get("arguments", called.get("parameters"))
    if isinstance(given, str):
        return name, given
    return name, json.dumps({} if given is None else given, ensure_ascii=False)

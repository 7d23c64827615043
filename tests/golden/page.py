"""The bytes in docs/protocols/conversations.md: those of `infer.json`; the words stay as they are.

A section is headed by its talk's name. `    1 → Ask: …` stands for a message by its place,
`    seed = …` for what follows from the talk; each is followed by its hex.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "protocols" / "conversations.md"
LINE_CHARS = 92
SECTION = re.compile(r"## `(\w+)`")
MESSAGE = re.compile(r"(    (\d+) [→←] (\w+)): \d+ bytes")
DERIVED = re.compile(r"    (\w+) = .*")
HEX = re.compile(r"      [0-9a-f]+")


def with_bytes(text: str, talks: list[dict[str, Any]]) -> str:
    """The page with all bytes as they are now."""
    return "\n".join(_lines(text, {talk["name"]: talk for talk in talks}))


def _lines(text: str, talks: dict[str, dict[str, Any]]) -> Iterator[str]:
    talk: dict[str, Any] = {}
    for line in text.split("\n"):
        if section := SECTION.fullmatch(line):
            talk = talks[section[1]]
        if found := MESSAGE.fullmatch(line):
            message = talk["messages"][int(found[2]) - 1]
            assert message["message"] == found[3], f"{line!r} is another message now"
            yield f"{found[1]}: {len(message['hex']) // 2} bytes"
            yield from _hex(message["hex"])
        elif found := DERIVED.fullmatch(line):
            yield line
            yield from _hex(talk["derived"][found[1]])
        elif not HEX.fullmatch(line):
            yield line


def _hex(data: str) -> Iterator[str]:
    for start in range(0, len(data), LINE_CHARS):
        yield "      " + data[start : start + LINE_CHARS]

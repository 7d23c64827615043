"""Reads what a repository's card says of a model: the front matter of its README.md.

Understands the plain part of YAML in which cards are written: `key: value`, `[a, b]` and lists of
`- item`. What is written otherwise counts as not said. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CARD_FILE = "README.md"
MAX_CARD_BYTES = 64 << 10
MAX_ITEMS = 64
MAX_VALUE_CHARS = 200
_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*):(?:\s+(.*))?")
_ITEM = re.compile(r"\s*-\s+(.*)")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True)
class Card:
    """What a card says; what it does not say is empty. `bases`: the models it was made from."""

    licence: str = ""
    languages: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()


def load_card(folder: Path) -> Card:
    """Read a folder's card; one that is missing or unreadable says nothing."""
    try:
        with (folder / CARD_FILE).open("rb") as file:
            return parse_card(file.read(MAX_CARD_BYTES).decode("utf-8", errors="replace"))
    except OSError:
        return Card()


def parse_card(text: str) -> Card:
    """Read the front matter of a card."""
    said = _front_matter(text)
    licence = " ".join(said.get("license", [])[:1])
    if licence == "other":
        licence = " ".join(said.get("license_name", ["other"])[:1])
    languages = [one for one in said.get("language", []) if _LANGUAGE.fullmatch(one)]
    return Card(licence, tuple(languages[:16]), tuple(said.get("base_model", [])))


def _front_matter(text: str) -> dict[str, list[str]]:
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return {}
    said: dict[str, list[str]] = {}
    values: list[str] = []
    for line in lines[1:]:
        if line.rstrip() == "---":
            return said
        key, item = _KEY.fullmatch(line.rstrip()), _ITEM.fullmatch(line.rstrip())
        if key is not None:
            values = said[key[1]] = _values(key[2] or "")
        elif item is not None and len(values) < MAX_ITEMS:
            values += _values(item[1])[:1]
    return {}  # it does not end


def _values(text: str) -> list[str]:
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return [value for part in text[1:-1].split(",")[:MAX_ITEMS] for value in _values(part)]
    value = re.sub(r"\s+#.*", "", text).strip("'\"")
    return [value[:MAX_VALUE_CHARS]] if value and value[0] not in "{|>&*!" else []

"""Takes out of a text what no reader sees, and counts it. Decides what is hidden; splits nothing.

The ranges are our own, so that this does not depend on a Python's tables; only NFC does, and
nobody but the contributor runs that: what is stored is the clean bytes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

CLEANER = "lorikeet-intake 1"
MAX_HIDDEN_BPS = 50
"""More of a file's characters may not be hidden ones."""

_NEWLINES = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\t\xa0\u1680\u2000-\u200a\u202f\u205f]")
_BLANK_LINES = re.compile(r"\n{3,}")

# Joiners mean something after a letter of these scripts, variation selectors after a sign.
_JOINING = "\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18aa"
_EMOJI = "\u203c-\u3299\U0001f000-\U0001faff"
_SIGNS = f"#*0-9\xa9\xae{_EMOJI}"
_CLASSES = {
    "control": "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufff9-\ufffb",
    "soft hyphen": "\xad",
    "zero-width": "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200d\u2060-\u2065"
    "\u206a-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0100-\U000e01ef",
    "bidi": "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069",
    "tag": "\U000e0000-\U000e007f",
    "private use": "\ue000-\uf8ff\U000f0000-\U0010ffff",
    "replacement": "\ufffd",
    "none": "\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff",
}
_HARMLESS = {"soft hyphen", "emoji joiner"}
_HIDDEN = re.compile(f"[{''.join(_CLASSES.values())}]")
_CLASS_OF = {name: re.compile(f"[{characters}]") for name, characters in _CLASSES.items()}
_MEANT = re.compile(f"(?<=[{_JOINING}])[\u200c\u200d]|(?<=[{_SIGNS}])[\ufe0e\ufe0f]")


@dataclass(frozen=True)
class Cleaned:
    """A text, how long it was, and what was taken out of it, by class."""

    text: str
    characters: int
    stripped: Mapping[str, int]

    @property
    def hidden(self) -> int:
        """How many characters were hidden that nobody types by accident."""
        return sum(count for name, count in self.stripped.items() if name not in _HARMLESS)

    @property
    def hides_too_much(self) -> bool:
        """Say whether more was hidden than an honest text has."""
        return self.hidden * 10_000 > self.characters * MAX_HIDDEN_BPS


def clean(text: str) -> Cleaned:
    """Return the text in NFC, without hidden characters, with plain newlines and spaces.

    Cleaning again changes nothing. A byte order mark at the start is not counted.
    """
    text = text.removeprefix("\ufeff")
    characters = len(text)
    text = unicodedata.normalize("NFC", _NEWLINES.sub("\n", text))
    stripped: Counter[str] = Counter()
    text = unicodedata.normalize("NFC", _strip(text, stripped))
    lines = _SPACES.sub(" ", text).split("\n")
    text = "\n".join(line.rstrip(" ") for line in lines)
    return Cleaned(_BLANK_LINES.sub("\n\n", text).strip(" \n"), characters, stripped)


def is_clean(text: str) -> bool:
    """Say whether a text holds nothing that `clean` takes out, NFC aside."""
    return _strip(text, Counter()) == text and not _NEWLINES.search(text)


def _strip(text: str, stripped: Counter[str]) -> str:
    if text.isascii() and not _HIDDEN.search(text):
        return text

    def judge(match: re.Match[str]) -> str:
        place = match.start()
        character = match.group()
        if _MEANT.match(text, place):
            return character
        stripped[_class_of(text, place)] += 1
        return ""

    return _HIDDEN.sub(judge, text)


def _class_of(text: str, place: int) -> str:
    character = text[place]
    if character == "\u200d" and re.match(f"[{_EMOJI}]", text[place + 1 : place + 2]):
        return "emoji joiner"
    return next(name for name, found in _CLASS_OF.items() if found.match(character))

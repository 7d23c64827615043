"""What crosses a child's border, both ways. Decides nothing."""

from __future__ import annotations

import msgspec

from .types import Examined, Known, Rules

TEXTS = "texts"
PROGRESS = "progress"  # how many steps are done, how many there are, which is next


class ParseJob(msgspec.Struct, frozen=True):
    """Which file to read, and by which rules."""

    path: str
    rules: Rules


class Parsed(msgspec.Struct, frozen=True):
    """What a file holds: (title, text) of each document, what to tell (a finding's code and
    detail), what was taken out.
    """

    sha256: bytes
    size: int
    format: str
    encoding: str
    documents: list[tuple[str, str]]
    told: list[tuple[str, str]]
    stripped: dict[str, int]
    isolated: bool


class JudgeJob(msgspec.Struct, frozen=True):
    """What to check: each file's name and where its Parsed lies, or the Parsed itself for one that
    gave nothing. Or, for a review, the sizes of clean documents, which lie one behind another in
    TEXTS.
    """

    parsed: list[tuple[str, str | Parsed]]
    rules: Rules
    known: Known
    losses: list[int]
    review: list[int] | None


class Judged(msgspec.Struct, frozen=True):
    """The result; the texts, of these sizes, lie in TEXTS, so that the parent need not hold any of
    them twice.
    """

    examined: Examined
    sizes: list[int]


def gave_nothing(code: str, detail: str, isolated: bool = True) -> Parsed:
    """Return what there is to say of a file that could not be taken."""
    return Parsed(
        sha256=bytes(32),
        size=0,
        format="",
        encoding="",
        documents=[],
        told=[(code, detail)],
        stripped={},
        isolated=isolated,
    )

"""Declares what a node's doctor finds: immutable, made of plain values. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "wrong"]
"""It works; it works, and something is worth knowing; it does not."""


@dataclass(frozen=True)
class Checked:
    """One part of a node, how it is, and the mend where it is wrong."""

    part: str
    state: State
    what: str
    mend: str = ""

"""Divides an answer into blocks, texts and calls, as the APIs of agents do.

    Delta, CallDelta  →  Opened (a block begins) · Grown (more of it) · Closed (it is complete)

One block is open at a time. Pure; knows no API's words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..api.answers import CallDelta, Delta, TokenLogprobs


@dataclass
class Text:
    """A run of text; `index` counts the answer's blocks."""

    index: int
    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return all of it so far."""
        return "".join(self.parts)


@dataclass
class Call:
    """A call of a tool; its arguments are JSON text once it is complete."""

    index: int
    id: str
    name: str
    number: int
    parts: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """Return its arguments; a call that has none gets an empty object."""
        return "".join(self.parts) or "{}"


Block = Text | Call


@dataclass(frozen=True)
class Opened:
    """A block begins; there is nothing in it yet."""

    block: Block


@dataclass(frozen=True)
class Grown:
    """A block got more text, or more of its arguments."""

    block: Block
    more: str
    logprobs: Sequence[TokenLogprobs] = ()


@dataclass(frozen=True)
class Closed:
    """A block is complete."""

    block: Block


Step = Opened | Grown | Closed


class Blocks:
    """One answer's blocks, in order; the last one may be open."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._is_open = False

    def take(self, event: Delta | CallDelta) -> list[Step]:
        """Add more of the answer; return what that changes."""
        if isinstance(event, Delta):
            if not event.text and not event.logprobs:
                return []
            text, steps = self._text()
            text.parts.append(event.text)
            text.logprobs += event.logprobs
            return [*steps, Grown(text, event.text, event.logprobs)]
        call, steps = self._call(event)
        call.parts.append(event.arguments)
        return [*steps, *([Grown(call, event.arguments)] if event.arguments else [])]

    def end(self) -> list[Step]:
        """Close what is open; an answer of nothing is one empty text."""
        steps = [] if self.all else self._text()[1]
        return [*steps, *self._close()]

    def _text(self) -> tuple[Text, list[Step]]:
        last = self.all[-1] if self._is_open else None
        if isinstance(last, Text):
            return last, []
        text = Text(len(self.all))
        return text, self._open(text)

    def _call(self, event: CallDelta) -> tuple[Call, list[Step]]:
        last = self.all[-1] if self._is_open else None
        if isinstance(last, Call) and last.number == event.index:
            return last, []
        call = Call(len(self.all), event.id, event.name, event.index)
        return call, self._open(call)

    def _open(self, block: Block) -> list[Step]:
        steps = self._close()
        self.all.append(block)
        self._is_open = True
        return [*steps, Opened(block)]

    def _close(self) -> list[Step]:
        steps: list[Step] = [Closed(self.all[-1])] if self._is_open else []
        self._is_open = False
        return steps

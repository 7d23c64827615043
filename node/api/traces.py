"""A trace: what became of one request, step by step, as OpenTelemetry's spans and W3C's
`traceparent` mean it. Pure.

It holds no text of anybody's and no key: names of steps are ours, attributes are ids, counts and
codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["server", "client", "internal"]
"""Somebody asked here; another node was asked; everything else."""
Attribute = str | int | float

RECEIPT = "lorikeet.receipt"
"""Which receipt an answer left, and a step is about: its digest in hex."""
TRACE_BYTES = 16
SPAN_BYTES = 8
MAX_HEADER_CHARS = 512
_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")

Draw = Callable[[int], bytes]
"""So many random bytes."""


@dataclass(frozen=True)
class TraceContext:
    """Which trace a request belongs to: ids in lower-case hex, `span` of the request as it came
    here, `parent` of who asked, empty where nobody said. `name`: how it was asked.
    """

    trace: str
    span: str
    parent: str
    name: str
    began_ns: int

    @property
    def traceparent(self) -> str:
        """W3C's header, for who asked and for who is asked on behalf of this request."""
        return f"00-{self.trace}-{self.span}-01"


def open_context(header: str | None, name: str, now_ns: int, draw: Draw) -> TraceContext:
    """Go on in the trace that a `traceparent` names, or begin one where it names none."""
    said = _PARENT.fullmatch(header) if header and len(header) <= MAX_HEADER_CHARS else None
    trace = draw(TRACE_BYTES).hex()
    parent = ""
    # Of version 00 nothing may follow; ids of zeros alone say nothing.
    if said and int(said[2], 16) and int(said[3], 16) and (said[1] != "00" or not said[4]):
        trace = said[2]
        parent = said[3]
    return TraceContext(trace, draw(SPAN_BYTES).hex(), parent, name, now_ns)


@dataclass(frozen=True)
class Span:
    """One step: from when to when, in nanoseconds since 1970, and below which other step.

    `error` is the code of what ended it before its time, empty where nothing did.
    """

    span: str
    parent: str
    name: str
    kind: Kind
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Trace:
    """All steps of one request, in the order in which they ended; `receipts` are the digests, in
    hex, of what it cost.
    """

    trace: str
    spans: tuple[Span, ...]
    receipts: tuple[str, ...] = ()


def roots(spans: Sequence[Span]) -> list[Span]:
    """Return the spans that stand below none of these, the earliest first."""
    known = {one.span for one in spans}
    return sorted((one for one in spans if one.parent not in known), key=began)


def below(parent: Span, spans: Sequence[Span]) -> list[Span]:
    """Return the spans directly below one, the earliest first."""
    return sorted((one for one in spans if one.parent == parent.span), key=began)


def began(span: Span) -> int:
    """When a span began, for sorting."""
    return span.began_ns

"""How long each part of one answer took, and when: for its `timings`, and for its trace."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import trio

from ..api.traces import SPAN_BYTES, Attribute, Kind, Span, TraceContext, open_context
from ..errors import NodeError

MAX_STEPS = 48


class Times:
    """The parts of one answer: how long (ms) each took in all, and each step as a span.

    `context` is the trace to go on in; None begins one. A step costs a few microseconds, and there
    are none for single tokens.
    """

    def __init__(self, context: TraceContext | None = None) -> None:
        self._started = time.perf_counter()
        now_ns = time.time_ns()
        self.context = context or open_context(None, "answer", now_ns, secrets.token_bytes)
        self._zero_ns = now_ns - round(self._started * 1e9)
        self._parts: dict[str, float] = {}
        self._steps: list[Span] = []
        self.answer = secrets.token_hex(SPAN_BYTES)
        """The span below which the steps of this answer stand."""

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time that the block takes to a part; it is a step, too."""
        began = time.perf_counter()
        try:
            with self.step(part):
                yield
        finally:
            self.add({part: (time.perf_counter() - began) * 1000})

    def add(self, parts: Mapping[str, float]) -> None:
        """Add times measured elsewhere."""
        for part, took_ms in parts.items():
            self._parts[part] = self._parts.get(part, 0.0) + took_ms

    def mark(self, part: str) -> None:
        """Record, once, how long ago the request came."""
        self._parts.setdefault(part, (time.perf_counter() - self._started) * 1000)

    def longest(self, part: str, took_ms: float) -> None:
        """Record the longest of several times."""
        self._parts[part] = max(self._parts.get(part, 0.0), took_ms)

    def as_dict(self) -> dict[str, float]:
        """Return all parts so far."""
        return dict(self._parts)

    # --- the trace ---

    @contextmanager
    def step(
        self, name: str, parent: str = "", kind: Kind = "internal", **attributes: Attribute
    ) -> Iterator[str]:
        """Note a step that lasts as long as the block, whose own steps name what it gives as their
        parent. An error that ends it is noted by its code alone: its words may hold a prompt's.
        """
        began = time.perf_counter()
        span = secrets.token_hex(SPAN_BYTES)
        error = ""
        try:
            yield span
        except BaseException as found:  # cancelled, too: it is raised again
            error = code_of(found)
            raise
        finally:
            self.note(name, began, parent, span=span, kind=kind, error=error, attributes=attributes)

    def note(
        self,
        name: str,
        began: float,
        parent: str = "",
        *,
        span: str = "",
        kind: Kind = "internal",
        error: str = "",
        attributes: Mapping[str, Attribute] | None = None,
    ) -> None:
        """Note a step that began then, by time.perf_counter, and ends now."""
        if len(self._steps) < MAX_STEPS:
            self._steps.append(
                Span(
                    span or secrets.token_hex(SPAN_BYTES),
                    parent or self.answer,
                    name,
                    kind,
                    began_ns=self._zero_ns + round(began * 1e9),
                    ended_ns=self._zero_ns + round(time.perf_counter() * 1e9),
                    attributes={f"lorikeet.{key}": one for key, one in (attributes or {}).items()},
                    error=error,
                )
            )

    def trace(self, name: str, attributes: Mapping[str, Attribute], error: str = "") -> list[Span]:
        """Return all spans, the answer's own and the request's among them, which end now."""
        context = self.context
        now_ns = self._zero_ns + round(time.perf_counter() * 1e9)
        began_ns = self._zero_ns + round(self._started * 1e9)
        whole = Span(
            self.answer,
            context.span,
            name,
            "internal",
            began_ns=began_ns,
            ended_ns=now_ns,
            attributes=attributes,
            error=error,
        )
        asked = Span(
            context.span,
            context.parent,
            context.name,
            "server",
            began_ns=min(context.began_ns, began_ns),
            ended_ns=now_ns,
            error=error,
        )
        return [*self._steps, whole, asked]


def code_of(error: BaseException) -> str:
    """Return the word for an error that is safe to keep."""
    if isinstance(error, NodeError):
        return error.http_code or error.code
    return "left" if isinstance(error, trio.Cancelled) else type(error).__name__

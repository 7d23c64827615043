"""Keeps the latest traces of a daemon: of each request its spans, and what became of its receipts.

    an answer ends      → its spans, and the receipt that it left
    a receipt goes on   → one more span: kept, promised, in an epoch's header, final, paid out

Nothing is done for each token. What is kept is bounded, in memory and on the disk, where a line is
one JSON object; a full disk costs lines, not answers.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from .api.traces import RECEIPT, SPAN_BYTES, Attribute, Span, Trace

MAX_TRACES = 512
MAX_SPANS = 96
"""Of one trace; a caller that names one trace for all that it asks fills that one alone."""
MAX_RECEIPTS = 32
MAX_EARLY = 256
"""So many receipts' steps wait for the end of the answer that left them."""
MAX_FILE_BYTES = 4 << 20
FINAL = "finality"
EARNED = "claim voucher"
PAID_OUT = "payout"

Write = Callable[[bytes], bool]
"""Adds a line; False when the disk does not take it."""


class Line(msgspec.Struct, frozen=True):
    """What the file has of one event of a trace."""

    trace: str
    spans: list[Span]
    receipts: list[str] = []


@dataclass
class _Kept:
    spans: list[Span] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Early:
    """A step of a receipt that no trace here has yet."""

    name: str
    at_ns: int
    attributes: dict[str, Attribute]


class Traces:
    """The latest traces. `write` keeps a line on the disk, where there is one."""

    def __init__(
        self,
        write: Write | None = None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        most: int = MAX_TRACES,
    ) -> None:
        self._write = write
        self._now_ns = now_ns
        self._most = most
        self._traces: OrderedDict[str, _Kept] = OrderedDict()
        self._of_receipt: dict[str, str] = {}
        self._early: OrderedDict[str, list[_Early]] = OrderedDict()

    def load(self, path: Path) -> None:
        """Read back what an earlier daemon wrote, and nothing where it cannot be read."""
        for name in (f"{path.name}.1", path.name):
            try:
                self.read(path.with_name(name).read_bytes().splitlines())
            except OSError:
                continue

    def read(self, lines: Iterable[bytes]) -> None:
        """Take up what was written as these lines."""
        for data in lines:
            try:
                self._add(msgspec.json.decode(data, type=Line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # cut off by a full disk or a crash

    def note(self, trace: str, spans: Sequence[Span], receipt: str | None = None) -> None:
        """An answer ended: keep its spans, and what its receipt came to meanwhile."""
        kept = [*spans]
        if receipt is not None:
            for early in self._early.pop(receipt, ()):
                kept.append(self._span(receipt, early, kept))
        self._keep(Line(trace, kept, [receipt] if receipt else []))

    def step(self, receipt: bytes, name: str, **attributes: Attribute) -> None:
        """A receipt (its digest) went a step further; the same step twice is told once."""
        told = {f"lorikeet.{key}": value for key, value in attributes.items()}
        digest = receipt.hex()
        early = _Early(name, self._now_ns(), told)
        trace = self._of_receipt.get(digest)
        if trace is None:
            self._wait(digest, early)
            return
        spans = self._traces[trace].spans
        if not any(_is_told(one, digest, early) for one in spans):
            self._keep(Line(trace, [self._span(digest, early, spans)]))

    def paid_out(self, epoch: int) -> None:
        """What headers up to this one award to this node was paid out on the chain."""
        for digest, trace in list(self._of_receipt.items()):
            spans = [one for one in self._traces[trace].spans if _receipt_of(one) == digest]
            names = {one.name for one in spans}
            epochs = [int(one.attributes.get("lorikeet.epoch", 0)) for one in spans]
            if {EARNED, FINAL} <= names and PAID_OUT not in names and max(epochs) <= epoch:
                self.step(bytes.fromhex(digest), PAID_OUT, epoch=epoch)

    def find(self, text: str) -> Trace | None:
        """Return the trace with that id, or of the receipt with that digest; the beginning of
        either is enough where it is the beginning of one alone.
        """
        text = text.lower()
        found = {trace for trace in self._traces if trace.startswith(text)}
        found |= {trace for digest, trace in self._of_receipt.items() if digest.startswith(text)}
        return self._tell(found.pop()) if text and len(found) == 1 else None

    def latest(self, limit: int) -> list[Trace]:
        """Return the latest traces, the newest first."""
        return [self._tell(trace) for trace in list(self._traces)[: -limit - 1 : -1]]

    def check(self) -> None:
        """Raise AssertionError unless the bounds and the index of receipts hold."""
        assert len(self._traces) <= self._most
        assert len(self._early) <= MAX_EARLY
        for digest, trace in self._of_receipt.items():
            assert digest in self._traces[trace].receipts, digest
        assert all(len(kept.spans) <= MAX_SPANS for kept in self._traces.values())

    def _tell(self, trace: str) -> Trace:
        kept = self._traces[trace]
        return Trace(trace, tuple(kept.spans), tuple(kept.receipts))

    def _wait(self, digest: str, early: _Early) -> None:
        steps = self._early.setdefault(digest, [])
        if all((one.name, one.attributes) != (early.name, early.attributes) for one in steps):
            steps.append(early)
        if len(self._early) > MAX_EARLY:
            self._early.popitem(last=False)

    def _keep(self, line: Line) -> None:
        self._add(line)
        if self._write is not None:
            self._write(msgspec.json.encode(line) + b"\n")

    def _add(self, line: Line) -> None:
        kept = self._traces.setdefault(line.trace, _Kept())
        for span in line.spans:
            _put(kept.spans, span)
        for digest in line.receipts[: MAX_RECEIPTS - len(kept.receipts)]:
            kept.receipts.append(digest)
            self._of_receipt[digest] = line.trace
        while len(self._traces) > self._most:
            _, left = self._traces.popitem(last=False)
            for digest in left.receipts:
                self._of_receipt.pop(digest, None)

    def _span(self, receipt: str, early: _Early, spans: Sequence[Span]) -> Span:
        """Make a step of a receipt a span: it lasted from the step before it until now."""
        before = [one for one in spans if _receipt_of(one) == receipt]
        last = max((one.ended_ns for one in before), default=early.at_ns)
        parent = next((one.span for one in before if one.name not in _OF_RECEIPTS), "")
        return Span(
            secrets.token_hex(SPAN_BYTES),
            parent,
            early.name,
            "internal",
            began_ns=min(last, early.at_ns),
            ended_ns=early.at_ns,
            attributes={RECEIPT: receipt, **early.attributes},
        )


_OF_RECEIPTS = frozenset({"outbox", EARNED, "promise", "seal", FINAL, PAID_OUT})


def _receipt_of(span: Span) -> object:
    return span.attributes.get(RECEIPT)


def _is_told(span: Span, digest: str, early: _Early) -> bool:
    told = {RECEIPT: digest, **early.attributes}
    return span.name == early.name and span.attributes == told


def _put(spans: list[Span], span: Span) -> None:
    """Add a span; one that several answers of a request share lasts as long as they do together."""
    for at, one in enumerate(spans):
        if one.span == span.span:
            first = min(one.began_ns, span.began_ns)
            last = max(one.ended_ns, span.ended_ns)
            spans[at] = replace(span, began_ns=first, ended_ns=last)
            return
    if len(spans) < MAX_SPANS:
        spans.append(span)

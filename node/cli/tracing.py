"""Provides `lorikeet trace`: what became of a request, step by step.

Changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ..api.status import StatusInfo
from ..api.traces import Span, Trace, below, roots
from ..otlp import to_otlp
from .client import CliError, open_client
from .options import Home, Json
from .show import show_json, show_table, when

NS_PER_MS = 1e6
NS_PER_S = 1e9
SHOWN = ("peer", "tokens", "epoch", "receipt")
"""What a line of the tree tells beside its times; --json has all."""


def trace(
    home: Home,
    which: Annotated[
        str, typer.Argument(metavar="[ID]", help="A trace, or a receipt; none: the latest ones.")
    ] = "",
    otlp: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it as OTLP/JSON, for Jaeger or Tempo."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what became of a request, step by step: from its face to the chain."""
    with open_client(home) as client:
        if which:
            traces = [client.get(f"traces/{which}", Trace)]
        else:
            traces = client.get("traces", list[Trace])
        status = client.get("status", StatusInfo) if otlp is not None else None
    if otlp is not None and status is not None:
        about = {"service.name": "lorikeet", "service.instance.id": status.peer_id}
        write(otlp, msgspec.json.encode(to_otlp(traces, about)))
    elif as_json:
        show_json(traces[0] if which else traces)
    elif which:
        for line in tree(traces[0].spans):
            print(line)
    else:
        rows = [(one.trace, *summary(one)) for one in traces]
        show_table(
            ("Trace", "When", "ms", "Steps", "Last step", "Receipt"), rows, empty="no request yet"
        )


def write(file: Path, data: bytes) -> None:
    """Write what is exported; `-` is the standard output."""
    try:
        if str(file) == "-":
            sys.stdout.buffer.write(data + b"\n")
        else:
            file.write_bytes(data)
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error}") from error


def summary(one: Trace) -> tuple[object, ...]:
    """Return when a request came, how long (ms) its answer took, how many steps there are, the last
    of them, and a receipt.
    """
    first = roots(one.spans)[0]
    last = max(one.spans, key=lambda span: span.ended_ns)
    took_ms = (first.ended_ns - first.began_ns) / NS_PER_MS
    receipt = one.receipts[0][:12] if one.receipts else "-"
    return (
        when(round(first.began_ns / NS_PER_S)),
        f"{took_ms:.0f}",
        len(one.spans),
        last.name,
        receipt,
    )


def tree(spans: Sequence[Span]) -> Iterator[str]:
    """Yield a line for each step: when it began after the request (ms), how long it took (ms), and
    what it was, below what it was part of.
    """
    zero_ns = min(span.began_ns for span in spans)
    yield f"{'began':>11} {'took':>11}   ms"
    for root in roots(spans):
        yield from _branch(root, spans, zero_ns, depth=0)


def _branch(span: Span, spans: Sequence[Span], zero_ns: int, *, depth: int) -> Iterator[str]:
    began_ms = (span.began_ns - zero_ns) / NS_PER_MS
    took_ms = (span.ended_ns - span.began_ns) / NS_PER_MS
    told = [
        f"{name} {span.attributes[f'lorikeet.{name}']}"
        for name in SHOWN
        if f"lorikeet.{name}" in span.attributes
    ]
    failed = [f"failed: {span.error}"] if span.error else []
    line = "  ".join([f"{'  ' * depth}{span.name}", *told, *failed])
    yield f"{began_ms:>11.1f} {took_ms:>11.1f}   {line}"
    for one in below(span, spans):
        yield from _branch(one, spans, zero_ns, depth=depth + 1)

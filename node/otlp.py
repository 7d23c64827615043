"""Writes traces as OTLP/JSON, which Jaeger, Tempo and OpenTelemetry's collector take. Pure.

The form is that of opentelemetry-proto's TracesData as its JSON mapping has it: ids in hex, 64-bit
numbers as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .api.traces import Attribute, Span, Trace

KINDS = {"internal": 1, "server": 2, "client": 3}
ERROR = 2
SCOPE = "lorikeet"


def to_otlp(traces: Sequence[Trace], service: Mapping[str, Attribute]) -> dict[str, object]:
    """Return the spans of one node; `service` says which, under OpenTelemetry's names."""
    spans = [_span(one.trace, span) for one in traces for span in one.spans]
    scoped = {"scope": {"name": SCOPE}, "spans": spans}
    resource = {"attributes": _attributes(service)}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scoped]}]}


def _span(trace: str, span: Span) -> dict[str, object]:
    told: dict[str, object] = {
        "traceId": trace,
        "spanId": span.span,
        "name": span.name,
        "kind": KINDS[span.kind],
        "startTimeUnixNano": str(span.began_ns),
        "endTimeUnixNano": str(span.ended_ns),
        "attributes": _attributes(span.attributes),
    }
    if span.parent:
        told["parentSpanId"] = span.parent
    if span.error:
        told["status"] = {"code": ERROR, "message": span.error}
    return told


def _attributes(attributes: Mapping[str, Attribute]) -> list[dict[str, object]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Attribute) -> dict[str, object]:
    if isinstance(value, str):
        return {"stringValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"doubleValue": value}

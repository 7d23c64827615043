"""What a trace costs an answer, in CPU time: `python -m benchmarks.http.tracing [--answers N]`.

The steps of an answer by another node are noted as node/answering does, and kept with a receipt as
a daemon does, on the disk too. Nothing is noted for a token. The other side are the times alone
that every answer tells, traced or not.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import write_result
from node.answering.times import Times
from node.api.traces import RECEIPT
from node.telemetry import Telemetry

PARTS = ("lookup", "lookup", "quote")
TOKENS = 64


def traced(telemetry: Telemetry, number: int) -> None:
    """Note one answer's steps, and keep them."""
    times = Times()
    for part in PARTS:
        with times.measure(part):
            pass
    with times.step("ask", kind="client", peer="16Uiu2HAm") as asking:
        for name in ("offer", "first token", "answer"):
            times.note(name, 0.0, asking)
        for name in ("channel and voucher", "receipt"):
            with times.step(name, asking):
                pass
    digest = number.to_bytes(32, "big")
    telemetry.traces.step(digest, "outbox")
    spans = times.trace("chat law", {RECEIPT: digest.hex()})
    telemetry.traces.note(times.context.trace, spans, digest.hex())


def timed(number: int) -> None:
    """Measure the same parts, and keep nothing."""
    parts: dict[str, float] = {}
    for part in PARTS:
        began = time.perf_counter()
        took_ms = (time.perf_counter() - began) * 1000
        parts[part] = parts.get(part, 0.0) + took_ms


def cpu_us(answer: Callable[[int], None], answers: int) -> float:
    """Microseconds of this process for each of so many answers."""
    began = time.process_time()
    for number in range(answers):
        answer(number)
    return (time.process_time() - began) / answers * 1e6


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        telemetry = Telemetry(Path(folder) / "log", stream=io.StringIO())
        with_trace = cpu_us(lambda number: traced(telemetry, number), options.answers)
        telemetry.close()
    without = cpu_us(timed, options.answers)
    figures = {
        "expected": "at most 200 µs an answer, nothing for a token",
        "answers": options.answers,
        "busy": os.getloadavg()[0] > (os.cpu_count() or 1) / 2,
        "cpu_us_per_answer": round(with_trace, 1),
        "cpu_us_per_answer_without": round(without, 1),
        f"cpu_us_per_token_of_{TOKENS}": round((with_trace - without) / TOKENS, 2),
    }
    print(json.dumps(figures, indent=1))
    write_result("http-tracing", figures)


if __name__ == "__main__":
    main()

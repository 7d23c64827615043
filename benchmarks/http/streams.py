"""What HTTP costs a token: `python -m benchmarks.http.streams [--clients N] [--idle N]`.

A daemon in memory, whose answers are words at a pace, behind the real face, in a process of its
own; so many clients in this one, each of which reads one streamed answer over a connection of its
own, while others are open and say nothing. The other side is the same daemon whose answers nobody
carries: as many, read where they are made. The difference of the two in CPU time, by the tokens, is
what HTTP costs. Writes one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import trio

from benchmarks import write_result
from benchmarks.p2p.idle import cpu_s, resident_mb
from node.api.answers import CompletionEvent, CompletionRequest, Delta, Ended, Started
from node.cli.serving import allow_files
from node.http.server import listen, serve_http, url_of
from tests.node.twin import PEER, Twin

BODY = {"messages": [{"role": "user", "content": "May I?"}], "stream": True, "max_tokens": 16}


@dataclass
class Talker(Twin):
    """A daemon whose answers are `tokens` words, one each `pace_s`."""

    tokens: int = 100
    pace_s: float = 0.05
    served: int = field(default=0)

    async def _events(self, request: CompletionRequest) -> AsyncIterator[CompletionEvent]:
        yield Started(PEER, request.model, None, {}, 7)
        for at in range(self.tokens):
            await trio.sleep(self.pace_s)
            yield Delta(" word", (at,))
            self.served += 1
        yield Ended("length", 7, self.tokens, 0, receipt=None, timings_ms={}, neighbours=1)


async def serve(talker: Talker) -> None:
    """The served process: says where, answers until it is ended."""
    sock = listen("127.0.0.1", 0)
    print(url_of(sock), flush=True)
    await serve_http(talker, sock)  # type: ignore[arg-type]  # as much of a daemon as is asked


async def read_inside(talker: Talker, clients: int) -> None:
    """The other side: as many answers, read where they are made."""

    async def one() -> None:
        async with talker.complete(CompletionRequest("law", "May I?")) as events:
            async for _ in events:
                pass

    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(one)


@dataclass
class Seen:
    """What the clients saw."""

    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)


async def read_answer(port: int, seen: Seen, model: str = "law") -> None:
    """Read one streamed answer to its end over a connection of its own."""
    body = json.dumps({"model": model, **BODY}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    began = time.monotonic()
    data = bytearray()
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(head.encode() + body)
            async for part in stream:
                if b"word" in part and b"word" not in data:
                    seen.first_ms.append(1000 * (time.monotonic() - began))
                data += part
    except (OSError, trio.BrokenResourceError) as error:
        seen.errors.append(repr(error))
        return
    seen.tokens += data.count(b'" word"')
    if b" 200 " not in data[:20] or b"[DONE]" not in data:
        seen.errors.append(bytes(data[:80]).decode(errors="replace"))


async def measure(options: argparse.Namespace, url: str, pid: int) -> dict[str, Any]:
    """Have all clients read at once, beside connections that say nothing."""
    port = int(url.rpartition(":")[2])
    seen = Seen()
    idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(options.idle)]
    await trio.sleep(1.0)
    before_mb = resident_mb(pid)
    before_s = cpu_s(pid)
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(options.clients):
            nursery.start_soon(read_answer, port, seen)
    lasted = time.monotonic() - began
    spent = cpu_s(pid) - before_s
    held = 0
    for stream in idle:
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        held += (await stream.receive_some(1 << 12)).startswith(b"HTTP/1.1 200")
        await stream.aclose()
    ordered = sorted(seen.first_ms) or [0.0]
    return {
        "tokens": seen.tokens,
        "errors": len(seen.errors),
        "first_errors": seen.errors[:3],
        "lasted_s": round(lasted, 2),
        "served_cpu_ms_per_token": round(1000 * spent / max(1, seen.tokens), 4),
        "first_token_ms_p50": round(ordered[len(ordered) // 2], 1),
        "first_token_ms_p99": round(ordered[len(ordered) * 99 // 100], 1),
        "idle_held": held,
        "resident_mb_before": round(before_mb, 1),
        "resident_mb_after": round(resident_mb(pid), 1),
    }


def inside_ms(options: argparse.Namespace) -> float:
    """CPU milliseconds a token where HTTP carries nothing."""
    before = time.process_time()
    trio.run(read_inside, Talker(tokens=options.tokens, pace_s=options.pace_s), options.clients)
    return 1000 * (time.process_time() - before) / (options.clients * options.tokens)


def main() -> None:
    """Measure and write the result, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--pace-s", type=float, default=0.2)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    allow_files()
    if options.serve:
        trio.run(serve, Talker(tokens=options.tokens, pace_s=options.pace_s))
        return
    told = [f"--tokens={options.tokens}", f"--pace-s={options.pace_s}", "--serve"]
    command = [sys.executable, "-m", "benchmarks.http.streams", *told]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        try:
            found = trio.run(measure, options, served.stdout.readline().strip(), served.pid)
        finally:
            served.terminate()
    alone = inside_ms(options)
    asked = {
        "expected": "no error, at most 1 ms of HTTP a token, all idle connections held",
        "clients": options.clients,
        "tokens_each": options.tokens,
        "pace_s": options.pace_s,
        "idle": options.idle,
        "files_allowed": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "busy": os.getloadavg()[0] > (os.cpu_count() or 1) / 2,
    }
    http_ms = round(found["served_cpu_ms_per_token"] - alone, 4)
    figures = (
        asked | found | {"inside_cpu_ms_per_token": round(alone, 4), "http_ms_per_token": http_ms}
    )
    print(json.dumps(figures, indent=1))
    write_result("http-streams", figures)


if __name__ == "__main__":
    main()

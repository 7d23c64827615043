"""Two hundred clients at once on one real node, beside a thousand that hold their connections."""

from __future__ import annotations

import resource
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from benchmarks.http.streams import Seen, read_answer
from node.cli.serving import allow_files
from tests.node.faces import shown
from tests.node.networks import open_lab

CLIENTS = 200
IDLE = 1000
FILES = 4096  # both ends of each connection lie in this process


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_two_hundred_streams_end_whole_and_a_thousand_connections_are_held(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"only {hard} files may be open here, and this takes {FILES}")
    allow_files()
    seen = Seen()
    try:
        with open_lab(tmp_path) as lab:
            async with (
                lab.daemon("home") as daemon,
                shown(daemon, tmp_path / "home") as url,
                AsyncExitStack() as stack,
            ):
                port = int(url.rpartition(":")[2])
                connect = partial(trio.open_tcp_stream, "127.0.0.1", port)
                idle = [await stack.enter_async_context(await connect()) for _ in range(IDLE)]
                async with trio.open_nursery() as nursery:
                    for _ in range(CLIENTS):
                        nursery.start_soon(read_answer, port, seen, "base")
                for stream in (idle[0], idle[-1]):
                    await stream.send_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
                    with trio.fail_after(60):
                        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert seen.errors == []

"""A daemon's HTTP face, and commands that find it by its home."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from typer.testing import CliRunner, Result

from node.cli.app import app
from node.daemon import NodeDaemon
from node.http.server import listen, serve_http, url_of
from node.running import RUNNING_FILE, Running


@asynccontextmanager
async def shown(daemon: NodeDaemon, home: Path) -> AsyncIterator[str]:
    """Serve a daemon's face, noted in its home; its URL."""
    async with trio.open_nursery() as nursery:
        sock = listen("127.0.0.1", 0)
        nursery.start_soon(serve_http, daemon, sock)
        note = Running(os.getpid(), url_of(sock), [], daemon.host.peer_id)
        (home / RUNNING_FILE).write_bytes(msgspec.json.encode(note))
        yield url_of(sock)
        nursery.cancel_scope.cancel()


async def command(home: Path, *arguments: str) -> Result:
    """`lorikeet …`, in a thread of this process."""

    def run() -> Result:
        return CliRunner().invoke(app, arguments, env={"LORIKEET_HOME": str(home)})

    with trio.fail_after(120):
        return await trio.to_thread.run_sync(run)


async def told(home: Path, *arguments: str) -> Any:
    """What a command prints as JSON; it must do well."""
    done = await command(home, *arguments, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)

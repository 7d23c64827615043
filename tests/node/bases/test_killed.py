"""`lorikeet up --join TOKEN` on a machine with nothing, killed at half: only the rest comes."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.invite import write_invite
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from tests.node.bases.test_fetching import shard
from tests.node.forked import forked_python
from tests.node.networks import open_lab, until

BLOCK_BYTES = 1 << 20


@asynccontextmanager
async def joining(home: Path, token: str) -> AsyncIterator[str]:
    """`lorikeet up --join`; its URL."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LORIKEET_")}
    env |= {"LORIKEET_LISTEN": "/ip4/127.0.0.1/tcp/0", "LORIKEET_HTTP_PORT": "0"}
    env |= {"LORIKEET_ENGINE_DTYPE": "float32", "LORIKEET_ENGINE_THREADS": "1"}
    command = [forked_python(), "-m", "node", "up", "--home", str(home), "--join", token]
    with subprocess.Popen(  # noqa: ASYNC220
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    ) as process:
        try:
            assert process.stdout is not None
            line = await trio.to_thread.run_sync(process.stdout.readline)
            yield line.split("http=")[1].split()[0]
        finally:
            process.kill()


async def look(url: str, path: str) -> Any:
    def get() -> Any:
        with urllib.request.urlopen(url + path, timeout=60) as response:
            return json.loads(response.read())

    return await trio.to_thread.run_sync(get)


async def test_a_machine_killed_while_it_fetches_its_base_fetches_only_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_get = BlockStore.get

    def get_slowly(self: BlockStore, cid: Cid) -> bytes | None:
        data = real_get(self, cid)
        if data is not None and len(data) == BLOCK_BYTES:
            time.sleep(0.1)
        return data

    with open_lab(tmp_path) as lab:
        base = shard(tmp_path / "base", more_bytes=32 * BLOCK_BYTES)
        async with lab.daemon("first", role="gateway") as first:
            monkeypatch.setattr(BlockStore, "get", get_slowly)
            info = first.base()
            shared = {"bootstrap": first.host.addresses, "base": base.hex(), "base_card": info.card}
            token = write_invite(shared)
            home = tmp_path / "second"
            draft = home / "bases" / base.hex() / ".files"

            def written() -> int:
                return sum(path.stat().st_blocks * 512 for path in draft.glob("*"))

            async with joining(home, token) as url:
                await until(lambda: written() > 16 * BLOCK_BYTES)
                waits_for = (await look(url, "/healthz"))["waits_for"]
                assert waits_for.startswith("fetching base, ")
                assert " MB/s, " in waits_for
                assert (await look(url, "/lorikeet/v1/status"))["waits_for"]
            had = written() // BLOCK_BYTES
            assert 16 <= had < 32
            async with joining(home, token) as url:

                async def is_whole() -> bool:
                    return (await look(url, "/lorikeet/v1/base"))["path"] != ""

                await until(is_whole, 60)
                counters = (await look(url, "/lorikeet/v1/status"))["counters"]
                [came] = [num for name, num in counters.items() if name.startswith("blocks_fe")]
            assert came <= info.size_bytes // BLOCK_BYTES + 5 - had + 1

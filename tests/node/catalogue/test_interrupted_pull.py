"""A daemon's process killed in the middle of a pull and started again: only what is missing
comes.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from node.config import CONFIG_FILE, dump_config
from p2p.blocks.draft import Draft
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from proofs.manifest import parse_manifest
from tests.node.forked import forked_python
from tests.node.networks import Lab, open_lab, until
from tests.node.tiny import make_adapter

PULL_DEADLINE_S = 60.0


@asynccontextmanager
async def fetcher_process(lab: Lab) -> AsyncIterator[str]:
    """`python -m node up` as a gateway; its URL."""
    config = lab.config("fetcher", role="gateway", http_port=0)
    config.home.mkdir(parents=True, exist_ok=True)
    (config.home / CONFIG_FILE).write_text(dump_config(config))
    command = [forked_python(), "-m", "node", "up", "--home", str(config.home)]
    with subprocess.Popen(  # noqa: ASYNC220
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = await trio.to_thread.run_sync(
                process.stdout.readline
            )  # it meets a daemon of this very loop while it starts
            yield line.split("http=")[1].split()[0]
        finally:
            process.kill()


def pull(url: str, model: str) -> Any:
    request = urllib.request.Request(
        f"{url}/lorikeet/v1/pull",
        json.dumps({"model": model}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PULL_DEADLINE_S) as response:
        return json.loads(response.read())


def pull_in_vain(url: str, model: str) -> None:
    with suppress(OSError):
        pull(url, model)


async def test_a_daemon_killed_while_it_pulls_fetches_only_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_get = BlockStore.get

    def get_slowly(self: BlockStore, cid: Cid) -> bytes | None:
        time.sleep(0.05)
        return real_get(self, cid)

    with open_lab(tmp_path) as lab:
        async with lab.daemon("creator", role="gateway") as creator:
            info = await creator.push(make_adapter(tmp_path / "law", "law", 1, padding_rank=8192))
            held = BlockStore(tmp_path / "creator" / "blocks").get(Cid.parse(info.cid))
            assert held is not None
            manifest = parse_manifest(held)
            num_blocks = len({digest for file in manifest.files for digest, _ in file.blocks})
            assert num_blocks > 30
            monkeypatch.setattr(BlockStore, "get", get_slowly)
            draft = tmp_path / "fetcher" / "adapters" / f".{info.cid}"

            def num_written() -> int:
                """How many blocks a fetch that begins now would find."""
                if not draft.is_dir():
                    return 0
                with Draft({draft / file.name: file.blocks for file in manifest.files}) as found:
                    return num_blocks - len(found.missing)

            async with fetcher_process(lab) as url:
                threading.Thread(target=pull_in_vain, args=(url, info.cid)).start()
                await until(lambda: num_written() > 8)
            num_kept = num_written()
            assert 8 < num_kept < num_blocks
            async with fetcher_process(lab) as url:
                report = await trio.to_thread.run_sync(pull, url, info.cid)
            assert report["blocks_by_peer"] == {creator.host.peer_id: num_blocks - num_kept}
            adapter = draft.with_name(info.cid)
            with Draft({adapter / file.name: file.blocks for file in manifest.files}) as found:
                assert found.missing == ()

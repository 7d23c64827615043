"""A whole daemon whose engine is a server behind the bridge: nothing above the border notices."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from node.app import open_daemon
from node.config import Config
from node.errors import ConfigError
from tests.bridge.stand_in import StandIn
from tests.node.networks import ask, until
from tests.node.tiny import make_adapter, make_base


def settings(tmp_path: Path, server: StandIn) -> Config:
    return Config(
        home=tmp_path / "home",
        listen=("/ip4/127.0.0.1/tcp/0",),
        base_path=server.model,
        engine="vllm",
        engine_url=server.url,
    )


async def test_a_daemon_serves_base_and_adapters_from_the_server_and_its_restart(
    tmp_path: Path,
) -> None:
    with StandIn(str(make_base(tmp_path / "base"))) as server:
        async with open_daemon(settings(tmp_path, server)) as daemon:
            assert daemon.engine is not None
            await daemon.engine.wait_up(30)
            law = await daemon.push(make_adapter(tmp_path / "law", "law", 1))
            plain = await ask(daemon)
            tuned = await ask(daemon, model="law", logprobs=2)
            assert plain.token_ids != tuned.token_ids
            assert len(tuned.logprobs) == len(tuned.token_ids)
            [folder] = server.adapters.values()
            assert folder == str(tmp_path / "home" / "adapters" / str(law.cid))
            figures = (await daemon.status()).engine
            assert figures is not None
            assert figures["dtype"] == "vllm/float32"
            assert figures["max_context_tokens"] == 64
            server.adapters.clear()  # as a server does that was started anew
            await until(lambda: bool(server.adapters))
            await until(lambda: daemon.engine is not None and daemon.engine.is_up)
            again = await ask(daemon, model="law")
            assert again.token_ids == tuned.token_ids
            assert daemon.engine.restarts == 1


async def test_a_daemon_ends_with_the_mend_where_the_server_cannot_be_used(tmp_path: Path) -> None:
    with StandIn(str(make_base(tmp_path / "base"))) as server:
        server.has_plugin = False
        with pytest.raises(ConfigError, match="pip install plugins/vllm"):
            async with open_daemon(settings(tmp_path, server)):
                await trio.sleep(30)

"""The daemon's side of the engine's border, against a real process that dies when told to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from engine import messages as m
from node.engine_host import EngineHost
from node.engine_link import AdapterFiles
from node.engine_process import EngineSettings
from node.errors import AdapterError, EngineFailed, EngineLost

SAMPLING = m.Sampling(bytes(32))


@asynccontextmanager
async def running_host(tmp_path: Path) -> AsyncIterator[EngineHost]:
    lines: list[str] = []
    settings = EngineSettings(
        Path("none"), command=(sys.executable, "-m", "tests.node.fake_engine")
    )
    host = EngineHost(settings, lines.append, stderr=tmp_path / "engine.log")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run)
        await host.wait_up(10)
        yield host
        nursery.cancel_scope.cancel()


async def answer(
    host: EngineHost,
    prompt: list[int],
    *,
    credit: int = 100,
    max_tokens: int = 5,
    adapter: bytes | None = None,
) -> list[int]:
    tokens: list[int] = []
    async with host.generate(prompt, adapter, SAMPLING, max_tokens, credit, []) as run:
        async for event in run:
            if isinstance(event, m.Tokens):
                tokens += event.token_ids
    return tokens


async def test_a_request_streams_to_its_end(tmp_path: Path) -> None:
    async with running_host(tmp_path) as host:
        assert await answer(host, [1]) == [7, 8, 9, 10, 11]
        assert (await host.stats()).running == 0
        assert await host.replay([1], [7, 8], None, SAMPLING) == [0.0, 0.0]


async def test_tokens_wait_for_credit(tmp_path: Path) -> None:
    async with running_host(tmp_path) as host, host.generate([1], None, SAMPLING, 4, 2, []) as run:
        events = aiter(run)
        assert [(await anext(events)) for _ in range(2)] == [
            m.Tokens(1, [7], 1),
            m.Tokens(1, [8], 1),
        ]
        with trio.move_on_after(0.2) as waited:
            await anext(events)
        assert waited.cancelled_caught
        run.grant(4)
        assert [event async for event in run][-1].reason == "length"  # type: ignore[union-attr]


async def test_leaving_early_frees_the_engine(tmp_path: Path) -> None:
    async with running_host(tmp_path) as host:
        async with host.generate([777], None, SAMPLING, 900, 900, []) as run:
            async for _ in run:
                break
        # the cancellation went out before the question, and the engine reads in order
        assert (await host.stats()).running == 0


async def test_a_dead_engine_fails_its_requests_and_comes_back_with_its_adapters(
    tmp_path: Path,
) -> None:
    adapter = AdapterFiles(b"a" * 32, tmp_path / "config", tmp_path / "weights")
    async with running_host(tmp_path) as host:
        await host.load(adapter)
        with pytest.raises(EngineLost, match="ask again"):
            await answer(host, [666])
        with trio.fail_after(5):
            await host.wait_up(5)
        assert await answer(host, [1], adapter=adapter.adapter) == [7, 8, 9, 10, 11]
        assert host.pid is not None
        os.kill(host.pid, signal.SIGKILL)
        with pytest.raises(EngineLost):
            while True:
                await answer(host, [1])
        await host.wait_up(5)


async def test_an_engine_killed_while_commands_are_written_is_replaced(tmp_path: Path) -> None:
    async with (
        running_host(tmp_path) as host,
        host.generate([777], None, SAMPLING, 900, 900, []) as run,
    ):
        assert host.pid is not None
        os.kill(host.pid, signal.SIGSTOP)
        for credit in range(
            4000
        ):  # far more than the socket takes: the writer stands in the middle of one
            run.grant(credit)
            await trio.lowlevel.checkpoint()
        os.kill(host.pid, signal.SIGKILL)
        with pytest.raises(EngineLost):
            async for _ in run:
                run.grant(900)
        await host.wait_up(5)
        assert host.restarts == 1
        assert await answer(host, [1]) == [7, 8, 9, 10, 11]


async def test_refusals_are_named(tmp_path: Path) -> None:
    async with running_host(tmp_path) as host:
        with pytest.raises(AdapterError, match=r"x\.weight"):
            await host.load(AdapterFiles(b"b" * 32, tmp_path, tmp_path / "bad"))
        with pytest.raises(EngineFailed, match="hold it first"):
            await answer(host, [1], adapter=b"b" * 32)


async def test_an_engine_that_cannot_start_is_said_so(tmp_path: Path) -> None:
    lines: list[str] = []
    host = EngineHost(EngineSettings(Path("none"), command=("/bin/false",)), lines.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run)
        with pytest.raises(EngineLost, match="did not start"):
            await host.wait_up(0.5)
        nursery.cancel_scope.cancel()
    assert any("ready" in line for line in lines)

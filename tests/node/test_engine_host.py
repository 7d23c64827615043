"""The daemon's side of the engine's border, against a real process that dies when told to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from engine import messages as m
from node.engine_host import EngineHost
from node.engine_link import AdapterFiles
from node.engine_process import MAX_LOG_BYTES, EngineSettings
from node.errors import AdapterError, ConfigError, EngineFailed, EngineLost
from tests.node.tiny import make_base

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
        await host.wait_up(60)
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


async def test_a_long_log_of_engines_is_put_aside_when_one_starts(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(b"short\n")
    async with running_host(tmp_path):
        assert log.read_bytes().startswith(b"short\n")
    log.write_bytes(b"x" * (MAX_LOG_BYTES + 1))
    async with running_host(tmp_path):
        assert log.stat().st_size < MAX_LOG_BYTES
    assert (tmp_path / "engine.log.1").stat().st_size == MAX_LOG_BYTES + 1


async def test_a_request_streams_to_its_end(tmp_path: Path) -> None:
    async with running_host(tmp_path) as host:
        assert await answer(host, [1]) == [7, 8, 9, 10, 11]
        assert (await host.stats()).running == 0
        assert await host.replay([1], [7, 8], None, SAMPLING) == [0.0, 0.0]


async def test_a_vector_comes_or_its_end_is_told_and_leaving_cancels_it(tmp_path: Path) -> None:
    async with running_host(tmp_path) as host:
        assert await host.embed([1, 2, 3], None) == bytes(12)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.embed, [777], None)
            with trio.fail_after(60):
                while not (await host.stats()).waiting:
                    await trio.lowlevel.checkpoint()
            assert host.load_now.waiting == 1
            nursery.cancel_scope.cancel()
        assert (await host.stats()).waiting == 0
        assert host.load_now.waiting == 0
        with pytest.raises(EngineLost, match="ask again"):
            await host.embed([666], None)
        await host.wait_up(60)
        assert await host.embed([1], None) == bytes(4)


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
        with trio.fail_after(60):
            await host.wait_up(60)
        assert await answer(host, [1], adapter=adapter.adapter) == [7, 8, 9, 10, 11]
        assert host.pid is not None
        os.kill(host.pid, signal.SIGKILL)
        with pytest.raises(EngineLost):
            while True:
                await answer(host, [1])
        await host.wait_up(60)


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
        await host.wait_up(60)
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


def refusing(folder: Path, first: str) -> tuple[str, ...]:
    """An engine that refuses its base; with `first` it serves one time, and dies of SIGKILL."""
    script = folder / "refusing.py"
    script.write_text(
        f"""
import pathlib, socket, sys
from engine.framing import encode_frames
from engine import messages as m
served = pathlib.Path({str(folder / "served")!r})
if {first!r} and not served.exists():
    served.touch()
    from tests.node.fake_engine import main
    main()
link = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
link.sendall(encode_frames([m.BaseRefused("tensor x leaves the file")]))
sys.exit(1)
"""
    )
    return (sys.executable, str(script))


async def test_a_base_that_is_refused_ends_the_host_with_the_engine_s_words(
    tmp_path: Path,
) -> None:
    command = refusing(tmp_path, first="")
    host = EngineHost(EngineSettings(Path("none"), command=command), lambda line: None)
    with (
        trio.fail_after(60),
        pytest.raises(ConfigError, match=r"tensor x leaves the file.*base_path"),
    ):
        await host.run()


async def test_a_base_that_is_refused_later_costs_each_request_the_reason_at_once(
    tmp_path: Path,
) -> None:
    command = refusing(tmp_path, first="yes")
    host = EngineHost(EngineSettings(Path("none"), command=command), lambda line: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run)
        await host.wait_up(60)
        assert host.pid is not None
        os.kill(host.pid, signal.SIGKILL)
        with trio.fail_after(60), pytest.raises(EngineLost, match="tensor x leaves the file"):
            while True:
                await host.wait_up(60)
                await trio.sleep(0.01)
        (tmp_path / "served").unlink()  # the base is whole again
        with trio.fail_after(60):
            while not host.is_up:
                with suppress(EngineLost):
                    await host.wait_up(0.1)
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_nobody_waits_for_an_engine_that_never_starts(tmp_path: Path) -> None:
    host = EngineHost(EngineSettings(Path("none"), command=("/bin/false",)), lambda line: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run)
        with trio.fail_after(60), pytest.raises(EngineLost, match="failed 3 times to start"):
            await host.wait_up(60)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda base: (base / "config.json").write_text('{"model_type": "mamba"}'), "'mamba'"),
        (
            lambda base: (base / "model.safetensors").write_bytes(
                (base / "model.safetensors").read_bytes()[:-9]
            ),
            "truncated",
        ),
    ],
)
async def test_the_real_engine_says_what_it_has_against_a_base(
    tmp_path: Path, spoil: Callable[[Path], object], told: str
) -> None:
    base = make_base(tmp_path / "base")
    spoil(base)
    host = EngineHost(EngineSettings(base, threads=1), lambda line: None)
    with trio.fail_after(60), pytest.raises(ConfigError, match=told) as refused:
        await host.run()
    assert "\n" not in str(refused.value)
    assert host.restarts == 0

"""Settings that change while a daemon runs, and those that wait for a restart."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
from pathlib import Path

import pytest
import trio
import trio.testing

from node.catalogue.replicating import BYTES_PER_S, GentleRate
from node.cli.serving import cancel_on_signal
from node.config import Config, settings
from node.reloading import Reloading
from p2p.blocks.rate import Rate
from tests.node.forked import forked_python
from tests.node.networks import until


def test_a_part_takes_what_changed_for_it_and_the_rest_waits(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    reloading = Reloading(config)
    taken: list[Config] = []
    reloading.on(("prompt_price", "completion_price"), taken.append)
    reloading.on(("max_upload_bytes_s",), taken.append)
    assert reloading.take(config).taken == ()
    fresh = dataclasses.replace(config, prompt_price=7, network="another")
    told = reloading.take(fresh)
    assert (told.taken, told.waiting) == (("prompt_price",), ("network",))
    assert taken == [fresh]
    again = reloading.take(fresh)
    assert (again.taken, again.waiting) == ((), ("network",))
    assert str(again) == "nothing changed; after a restart: network"
    assert reloading.take(config).taken == ("prompt_price",)
    with pytest.raises(AssertionError):
        reloading.on(("no_setting",), taken.append)
    assert "no_setting" not in settings()


async def test_a_rate_takes_another_bound(autojump_clock: trio.testing.MockClock) -> None:
    rate = Rate()
    await rate.take(1 << 30)
    assert trio.current_time() == pytest.approx(trio.current_time())
    rate.limit(100)
    began = trio.current_time()
    await rate.take(1000)
    assert trio.current_time() - began == pytest.approx(9.75)  # less what may pass at once
    gentle = GentleRate(0, lambda: 1.0)
    gentle.limit(10 * BYTES_PER_S)
    assert gentle.reserve(BYTES_PER_S) == pytest.approx(trio.current_time() + 0.75)


async def test_hangups_are_passed_on_and_one_too_many_is_none() -> None:
    send, receive = trio.open_memory_channel[int](1)
    signals, coming = trio.open_memory_channel[int](9)
    for _ in range(3):
        await signals.send(signal.SIGHUP)
    await signals.aclose()
    with trio.CancelScope() as scope:
        await cancel_on_signal(coming, scope, send)
    assert not scope.cancel_called
    assert receive.statistics().current_buffer_used == 1


def start(home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [forked_python(), "-m", "node", "up", "--home", str(home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


async def test_a_daemon_reads_its_settings_again_at_a_hangup_and_goes_on(tmp_path: Path) -> None:
    toml = tmp_path / "lorikeet.toml"
    stated = 'role = "bootstrap"\nlisten = ["/ip4/127.0.0.1/tcp/0"]\nhttp_port = 0\n'
    toml.write_text(stated)
    process = start(tmp_path)
    try:
        assert process.stdout is not None
        line = await trio.to_thread.run_sync(process.stdout.readline)
        assert line.startswith(b"ready ")

        def is_told(text: str) -> bool:
            return text in (tmp_path / "log").read_text()

        toml.write_text(stated + "max_upload_bytes_s = 1000\nmdns = true\n")
        process.send_signal(signal.SIGHUP)
        wanted = "settings were read again: max_upload_bytes_s changed; after a restart: mdns"
        await until(lambda: is_told(wanted))
        toml.write_text(stated + "nonsense = 1\n")
        process.send_signal(signal.SIGHUP)
        await until(lambda: is_told("settings stay as they are: unknown setting 'nonsense'"))
        process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(lambda: process.wait(60)) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

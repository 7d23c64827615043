"""The engine as the daemon sees it: a real process on a socket pair."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.messages import (
    AdapterHeld,
    AdapterRefused,
    Cancel,
    Failed,
    Finished,
    FromEngine,
    GetStats,
    Grant,
    Ready,
    ReleaseAdapter,
    Stats,
    Tokens,
)

from .processes import DEADLINE_S, Daemon
from .worlds import hold, make_base, submit, write_adapter

LAW = b"l" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("process")
    make_base(folder / "base")
    write_adapter(folder / "law", 1)
    write_adapter(folder / "foreign", 1, modules=("self_attn.k_proj",), r=9)
    return folder


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    with Daemon(folder / "base") as daemon:
        assert isinstance(daemon.receive(), Ready)
        yield daemon


def token_ids(messages: list[FromEngine], request_id: int) -> list[int]:
    return [
        token
        for m in messages
        if isinstance(m, Tokens) and m.request_id == request_id
        for token in m.token_ids
    ]


def test_tokens_stream_adapters_come_and_go_and_strangers_are_refused(
    daemon: Daemon, folder: Path
) -> None:
    daemon.send(submit(1, [5, 6, 7], tokens=300, credit=20))
    daemon.send(hold(LAW, folder / "law"))
    daemon.send(hold(b"f" * 32, folder / "foreign"))
    daemon.send(hold(b"n" * 32, folder / "nowhere"))
    verdicts = [m for m in (daemon.receive() for _ in range(23)) if not isinstance(m, Tokens)]
    assert [type(m) for m in verdicts] == [AdapterHeld, AdapterRefused, AdapterRefused]
    assert "made for another base" in verdicts[1].message
    assert "nowhere" in verdicts[2].message or "No such file" in verdicts[2].message
    daemon.send(submit(3, [5, 6, 7], b"f" * 32))
    daemon.send(submit(2, [5, 6, 7], LAW, tokens=30))
    daemon.send(Grant(1, 60))
    messages = daemon.receive_until(Finished)
    failed = next(m for m in messages if isinstance(m, Failed))
    assert (failed.request_id, failed.code) == (3, "unknown_adapter")
    assert len(token_ids(messages, 2)) == 30
    daemon.send(Cancel(1))
    messages += daemon.receive_until(Finished)
    assert messages[-1].reason == "cancelled"
    assert 20 + len(token_ids(messages, 1)) <= 60
    daemon.send(ReleaseAdapter(LAW))
    daemon.send(GetStats())
    stats = daemon.receive()
    assert isinstance(stats, Stats)
    assert (stats.running, stats.adapters_held, stats.kv_pages_free) == (0, [], stats.kv_pages)
    status, log = daemon.end()
    assert status == 0, log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack(">I", 1 << 31), "limit"),
        (struct.pack(">I", 5) + b"hello", "not a message"),
        (struct.pack(">I", 3) + b"\x92\xa1x", "not a message"),
    ],
)
def test_a_frame_that_is_no_message_ends_the_engine_with_a_clear_word(
    daemon: Daemon, data: bytes, words: str
) -> None:
    daemon.socket.sendall(data)
    assert daemon.process.wait(DEADLINE_S) == 2
    assert words in daemon.end()[1]


def test_a_stream_that_ends_inside_a_frame_ends_the_engine_with_a_clear_word(
    daemon: Daemon,
) -> None:
    daemon.socket.sendall(struct.pack(">I", 5) + b"hell")
    daemon.socket.shutdown(socket.SHUT_WR)
    assert daemon.process.wait(DEADLINE_S) == 2
    assert "inside a frame" in daemon.end()[1]


def test_a_killed_engine_ends_the_stream_and_a_closed_socket_ends_the_engine(folder: Path) -> None:
    base = folder / "base"
    with Daemon(base) as first, Daemon(base, "--dtype", "float32") as second:
        for daemon in (first, second):
            assert isinstance(daemon.receive(), Ready)
            daemon.send(submit(1, [5, 6, 7], tokens=900))
            daemon.receive_until(Tokens)
        first.process.send_signal(signal.SIGKILL)
        with pytest.raises((AssertionError, ConnectionError)):
            first.receive_until(Finished)
        assert first.end()[0] == -signal.SIGKILL
        assert second.end()[0] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an NVIDIA GPU here")
def test_a_device_that_is_insisted_on_and_not_there_is_named(folder: Path) -> None:
    with Daemon(folder / "base", "--kernels", "cuda") as daemon:
        status, log = daemon.end()
    assert status == 1
    assert "kernels is cuda, but" in log


def test_a_base_that_cannot_be_served_is_named(tmp_path: Path) -> None:
    with Daemon(tmp_path / "nothing") as daemon:
        status, log = daemon.end()
    assert status == 1
    assert "no base at" in log

"""Runs a daemon's process: locks its home, opens the HTTP face, prints one ready line, serves until
a signal.

Does not know what is served.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import trio

from proofs.errors import LedgerError

from ..app import open_daemon
from ..config import CONFIG_FILE, Config, load_config, split_address
from ..daemon import NodeDaemon
from ..errors import ConfigError, NodeError
from ..http.public import serve_blocks_to_anybody
from ..http.selling.routes import serve_sales
from ..http.server import listen, serve_http, url_of
from ..http.web import serve_web
from ..http.web.certificate import Certificate
from ..running import RUNNING_FILE, Running
from ..testnet.interrupts import first_error
from .client import CliError

MAX_SHUTDOWN_S = 4.5
MAX_FILES = 16_384
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def hold_home(home: Path) -> Iterator[None]:
    """Allow one daemon per home; the kernel drops the lock with the process, however that ends."""
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CliError(
                f"another daemon serves {home}; `lorikeet status --home {home}` asks it"
            ) from None
        yield


def run(config: Config) -> None:
    """Serve until a signal; of a group of errors raise the first one."""
    allow_files()
    try:
        trio.run(serve, config)
    except BaseExceptionGroup as group:
        error = first_error(group)
        if isinstance(error, NodeError | CliError):
            raise error from None
        if isinstance(error, LedgerError):  # at the start: once it runs, it outlives that
            raise CliError(str(error)) from None
        if isinstance(error, OSError) and error.errno in FULL:
            raise CliError(f"{error.strerror}: {error.filename}; free some space") from None
        raise


def allow_files() -> None:
    """Have as many files open as the system lets this process, `MAX_FILES` at most: each client
    and each peer is one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def serve(config: Config) -> None:
    """Run one daemon and its HTTP face until SIGINT or SIGTERM."""
    config, doors = open_doors(config)
    send, hangups = trio.open_memory_channel[int](1)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope, send)
            await serve_until_cancelled(config, doors, hangups)


@dataclass(frozen=True)
class Doors:
    """Where a daemon's faces listen: its operator's, and those for anybody (None: closed)."""

    own: socket.socket
    blocks: socket.socket | None
    sales: socket.socket | None
    web: socket.socket | None


def open_doors(config: Config) -> tuple[Config, Doors]:
    """Listen; gives the configuration with the port that the browsers' page really has. Raises
    CliError.
    """
    doors = Doors(
        _listen(config, config.http_host, config.http_port, "http_port"),
        _listen_at(config, "public_blocks"),
        _listen_at(config, "sell"),
        _listen_at(config, "web_listen"),
    )
    if doors.web is not None:
        host = config.web_listen.rpartition(":")[0]
        config = replace(config, web_listen=f"{host}:{doors.web.getsockname()[1]}")
    return config, doors


def _listen_at(config: Config, setting: str) -> socket.socket | None:
    """Listen at the host:port that a setting names, if it names one."""
    place = getattr(config, setting)
    return _listen(config, *split_address(place, setting), setting) if place else None


def _load_certificate(config: Config) -> Certificate | None:
    """Load what web_listen shows. Raises CliError."""
    if not config.web_certificate:
        return None
    chain = Path(config.web_certificate).expanduser()
    key = Path(config.web_certificate_key).expanduser()
    try:
        return Certificate(chain, key)
    except (OSError, ssl.SSLError) as error:
        raise CliError(
            f"web_certificate cannot be used ({error}); set the PEM files of the chain and its key"
            f" in {config.home / CONFIG_FILE}"
        ) from None


def _listen(config: Config, host: str, port: int, setting: str) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as error:
        raise CliError(
            f"cannot listen on {host}:{port} ({error.strerror}); set {setting} in"
            f" {config.home / CONFIG_FILE}"
        ) from None


async def serve_until_cancelled(config: Config, doors: Doors, hangups: AsyncIterator[int]) -> None:
    """Run the daemon, reachable over HTTP by whom its doors are for, until cancelled. With each of
    the `hangups` its settings are read again.
    """
    certificate = _load_certificate(config)
    async with trio.open_nursery() as nursery, open_daemon(config) as daemon:
        serve = partial(serve_http, log=daemon.telemetry.log, allowed_hosts=config.allowed_hosts)
        nursery.start_soon(serve, daemon, doors.own, config.hub_origin)
        if doors.blocks is not None:
            nursery.start_soon(serve_blocks_to_anybody, daemon, doors.blocks)
        if doors.sales is not None:
            nursery.start_soon(serve_sales, daemon, doors.sales)
        if doors.web is not None:
            nursery.start_soon(serve_web, daemon, doors.web, certificate, daemon.bank)
        nursery.start_soon(reload_on_signal, hangups, daemon)
        status = await daemon.status()
        running = Running(
            pid=os.getpid(),
            http=url_of(doors.own),
            p2p=list(status.addresses),
            peer_id=status.peer_id,
        )
        with announced(running, config.home):
            await trio.sleep_forever()


async def reload_on_signal(hangups: AsyncIterator[int], daemon: NodeDaemon) -> None:
    """Read the settings again at each signal; wrong ones change nothing, and are told."""
    async for _ in hangups:
        try:
            daemon.reload(load_config(daemon.config.home))
        except (ConfigError, OSError) as error:
            daemon.telemetry.log(f"daemon: settings stay as they are: {error}")


async def cancel_on_signal(
    signals: AsyncIterator[int], scope: trio.CancelScope, hangups: trio.MemorySendChannel[int]
) -> None:
    """End the program cleanly at the first signal, and in any case within `MAX_SHUTDOWN_S`; pass
    SIGHUP on, unless a terminal sends it that closes.
    """
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    async for number in signals:
        if number == signal.SIGHUP and not on_terminal:
            with suppress(trio.WouldBlock):  # settings are about to be read already
                hangups.send_nowait(number)
            continue
        # A thread, because a loop that hangs can't end itself. It goes with the process when that
        # ends in time.
        timer = threading.Timer(MAX_SHUTDOWN_S, os._exit, (1,))
        timer.daemon = True
        timer.start()
        scope.cancel()
        return


@contextmanager
def announced(running: Running, home: Path) -> Iterator[None]:
    """Announce where it serves, in <home>/daemon.json and one line on stdout, while the block
    lasts.
    """
    path = home / RUNNING_FILE
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(running))
    fresh.replace(path)
    print(f"ready http={running.http} p2p={running.p2p[0] if running.p2p else '-'}", flush=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)

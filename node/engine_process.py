"""Runs one engine process from start to end: command line, socket, frames both ways.

Two kinds of process speak the same border: our own engine, and the bridge to a vLLM server. Nobody
else knows which one runs. Decides nothing about restarts, and does not know what a message means.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from typing import BinaryIO

import trio

from engine import messages as m
from engine.framing import READ_BYTES, MessageDecoder, encode_frames

END_DEADLINE_S = 2.0
MAX_LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class EngineSettings:
    """How to start the engine; `command` is its program, without the options below.

    Each process is sent `vocabulary` before anything else.
    """

    base: Path
    dtype: str = "auto"
    threads: int = 0
    kv_tokens: int = 0
    max_adapters: int = 0
    draft_tokens: int = 0
    vocabulary: m.Vocabulary | None = None
    command: tuple[str, ...] = (sys.executable, "-m", "engine", "serve")

    @property
    def environment(self) -> dict[str, str]:
        """Return what is added to the daemon's environment: threads pinned where that helps.

        An engine that has the whole machine pins its threads; several on one machine would pin
        theirs to the same core.
        """
        return {"OMP_PROC_BIND": "true"} if self.threads == 0 else {}

    def arguments(self, fd: int) -> list[str]:
        """Return the command line for an engine that speaks on socket `fd`."""
        options: dict[str, object] = {"--fd": fd, "--base": self.base, "--dtype": self.dtype}
        options |= {"--kv-tokens": self.kv_tokens} if self.kv_tokens else {}
        options |= {"--max-adapters": self.max_adapters} if self.max_adapters else {}
        options |= {"--draft-tokens": self.draft_tokens} if self.draft_tokens else {}
        options |= {"--threads": self.threads} if self.threads else {}
        return [*self.command, *(str(part) for option in options.items() for part in option)]


@dataclass(frozen=True)
class VllmSettings:
    """How to start the bridge to a vLLM server; `digest` is the base's, which the server cannot
    tell.

    `adapters` is the folder of adapters here, `adapters_there` how the server sees it (empty: at
    the same path; "hub": not at all). `key` is the server's --api-key.
    """

    base: Path
    digest: bytes
    url: str
    adapters: Path
    adapters_there: str = ""
    key: str = field(default="", repr=False)
    vocabulary: m.Vocabulary | None = None
    command: tuple[str, ...] = (sys.executable, "-m", "bridge", "vllm")

    @property
    def environment(self) -> dict[str, str]:
        """Return what is added to the daemon's environment: a command line is everybody's."""
        return {"LORIKEET_ENGINE_KEY": self.key}

    def arguments(self, fd: int) -> list[str]:
        """Return the command line for a bridge that speaks on socket `fd`."""
        options = {
            "--fd": fd,
            "--url": self.url,
            "--base": self.base,
            "--digest": self.digest.hex(),
            "--here": self.adapters,
            "--there": self.adapters_there,
        }
        return [*self.command, *(f"{name}={value}" for name, value in options.items())]


ProcessSettings = EngineSettings | VllmSettings


class EngineProcess(trio.abc.AsyncResource):
    """A running engine and our end of its socket. Made by `start_engine`; closing it ends the
    engine.
    """

    def __init__(self, process: trio.Process, stream: trio.SocketStream) -> None:
        self._process = process
        self._stream = stream
        self._frames = MessageDecoder[m.FromEngine](m.FromEngine)
        self.pid = process.pid

    async def receive(self) -> m.FromEngine | None:
        """Wait for the next message; return None when the engine closed the stream, even inside a
        frame.

        Raises BorderError for bytes that are not a message, trio.BrokenResourceError when the
        engine is gone.
        """
        while (message := self._frames.next_message()) is None:
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return None
            self._frames.feed(bytes(data))
        return message

    async def write(self, commands: trio.MemoryReceiveChannel[m.ToEngine]) -> None:
        """Send commands as they come, until the channel closes."""
        async for command in commands:
            await self._stream.send_all(encode_frames([command]))

    async def aclose(self) -> None:
        """Close the socket, which ends a healthy engine; kill one that does not end."""
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)
            with trio.move_on_after(END_DEADLINE_S):
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()


async def start_engine(settings: ProcessSettings, stderr: Path | None) -> EngineProcess:
    """Start an engine and append what it prints to the file `stderr`.

    Raises OSError when the program cannot be started.
    """
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    try:
        process = await _spawn(settings, theirs, stderr)
    except OSError:
        await stream.aclose()
        raise
    finally:
        theirs.close()
    return EngineProcess(process, stream)


async def _spawn(
    settings: ProcessSettings, theirs: socket.socket, stderr: Path | None
) -> trio.Process:
    log = _open_log(stderr) if stderr else None
    try:
        return await trio.lowlevel.open_process(
            settings.arguments(theirs.fileno()),
            stdin=DEVNULL,
            stdout=log or DEVNULL,
            stderr=log,
            pass_fds=[theirs.fileno()],
            env=settings.environment | os.environ,
        )
    finally:
        if log:
            log.close()


def _open_log(path: Path) -> BinaryIO:
    """Open what engines print to, to append; once it is long it becomes the older of two files."""
    with suppress(FileNotFoundError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")

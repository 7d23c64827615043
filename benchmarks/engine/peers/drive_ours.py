"""Our engine: `in_process`, stepped by this driver, or as the daemon runs it, a process of its own
behind its socket.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lines import Run, serve

sys.path.insert(0, str(Path(__file__).parents[3]))

NUMBERS = itertools.count()


def start(options: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Open the engine one way or the other and hold the adapters that were asked for.

    `file` names a base in the world, instead of the one that all sides share.
    """
    if "file" in options:
        options = {**options, "base": f"{options['world']}/{options['file']}"}
    return start_in_process(options) if options.get("in_process") else start_process(options)


def adapter_messages(options: dict[str, Any]) -> list[Any]:
    """One HoldAdapter for each adapter."""
    from engine.messages import HoldAdapter

    folders = [
        Path(options["adapters"]) / f"a{index:03}" for index in range(options.get("held", 0))
    ]
    return [
        HoldAdapter(
            identity(i), str(f / "adapter_config.json"), str(f / "adapter_model.safetensors")
        )
        for i, f in enumerate(folders)
    ]


def identity(index: int) -> bytes:
    """The adapter's 32 bytes."""
    return index.to_bytes(32, "big")


def submits(prompts: list[list[int]], adapters: list[Any], tokens: int) -> dict[int, Any]:
    """One greedy request per prompt, by its number."""
    from engine.messages import Sampling, Submit

    made = {}
    for prompt, adapter in zip(prompts, adapters, strict=True):
        number = next(NUMBERS)
        made[number] = Submit(
            number,
            prompt,
            None if adapter is None else identity(adapter),
            Sampling(bytes(32)),
            max_tokens=tokens,
            credit=tokens,
            stop_ids=[],
        )
    return made


def start_in_process(options: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """The engine stepped by hand: no socket, no other thread."""
    cores = os.sched_getaffinity(0)
    from engine.build import build_engine
    from engine.config import EngineConfig
    from engine.messages import AdapterHeld, Tokens

    # as engine/__main__.py does: importing torch under OMP_PROC_BIND pinned this thread
    os.sched_setaffinity(0, cores)
    done: SimpleQueue[Any] = SimpleQueue()
    config = EngineConfig(
        Path(options["base"]),
        dtype=options["dtype"],
        kernels=options["kernels"],
        threads=options["threads"],
        kv_tokens=16384,
    )
    built = build_engine(config, done.put)
    sizes = []
    for message in adapter_messages(options):
        built.engine.handle(message)
        built.engine.receive(done.get())
        held = built.engine.take_messages()[-1]
        assert isinstance(held, AdapterHeld), held
        sizes.append(held.size_bytes)

    def run(prompts: list[list[int]], adapters: list[Any], tokens: int) -> list[list[int]]:
        asked = submits(prompts, adapters, tokens)
        for message in asked.values():
            built.engine.handle(message)
        answers: dict[int, list[int]] = {number: [] for number in asked}
        while built.engine.step():
            for message in built.engine.take_messages():
                if isinstance(message, Tokens):
                    answers[message.request_id] += message.token_ids
        for message in built.engine.take_messages():
            if isinstance(message, Tokens):
                answers[message.request_id] += message.token_ids
        return list(answers.values())

    return run, {"kernels": built.kernels, "dtype": built.ready.dtype, "adapter_bytes": sum(sizes)}


def start_process(options: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """`python -m engine serve` on a socket pair: what the daemon runs."""
    from engine.framing import READ_BYTES, MessageDecoder, encode_frames
    from engine.messages import AdapterHeld, Failed, FromEngine, Tokens

    ours, theirs = socket.socketpair()
    command = [
        sys.executable,
        "-m",
        "engine",
        "serve",
        "--fd",
        str(theirs.fileno()),
        "--base",
        options["base"],
        "--dtype",
        options["dtype"],
        "--kernels",
        options["kernels"],
        "--threads",
        str(options["threads"]),
        "--kv-tokens",
        "16384",
    ]
    path = os.pathsep.join(
        [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(options["threads"])}
    child = subprocess.Popen(
        command, pass_fds=[theirs.fileno()], env=environment, stderr=subprocess.PIPE, text=True
    )
    theirs.close()
    decoder = MessageDecoder[FromEngine](FromEngine)

    def send(messages: list[Any]) -> None:
        ours.sendall(encode_frames(messages))

    def receive() -> Any:
        while (message := decoder.next_message()) is None:
            data = ours.recv(READ_BYTES)
            assert data, f"the engine ended with status {child.wait()}"
            decoder.feed(data)
        return message

    ready = receive()
    assert child.stderr is not None
    greeting = child.stderr.readline().strip()
    sizes = []
    messages = adapter_messages(options)
    send(messages)
    for _ in messages:
        held = receive()
        assert isinstance(held, AdapterHeld), held
        sizes.append(held.size_bytes)

    def run(prompts: list[list[int]], adapters: list[Any], tokens: int) -> list[list[int]]:
        asked = submits(prompts, adapters, tokens)
        send(list(asked.values()))
        answers: dict[int, list[int]] = {number: [] for number in asked}
        missing = tokens * len(answers)
        while missing:
            message = receive()
            assert not isinstance(message, Failed), message
            if isinstance(message, Tokens):
                answers[message.request_id] += message.token_ids
                missing -= len(message.token_ids)
        return list(answers.values())

    return run, {
        "kernels": greeting,
        "dtype": ready.dtype,
        "adapter_bytes": sum(sizes),
        "engine_pid": child.pid,
    }


if __name__ == "__main__":
    serve(start)

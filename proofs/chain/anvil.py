"""Runs anvil, Foundry's development node, as a child that dies with us."""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from ..hextext import to_hex
from .deploy import place_code
from .rpc import Rpc

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 5.0
PR_SET_PDEATHSIG = 1  # Linux: the signal that a child gets when its parent dies
LISTENING = re.compile(r"Listening on ([\d.]+):(\d+)")


@contextmanager
def run_anvil(
    binary: str, port: int, chain_id: int, balances: Mapping[bytes, int]
) -> Iterator[str]:
    """An anvil with x402's contracts in place and these balances; its URL."""
    command = [
        binary,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--chain-id",
        str(chain_id),
        "--accounts",
        "1",
        "--hardfork",
        "prague",
        "--slots-in-an-epoch",
        "0",  # its newest block is final, as py-evm's
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    drainer: threading.Thread | None = None
    try:
        url = wait_until_listening(process)
        drainer = threading.Thread(target=drain, args=(process.stdout,), daemon=True)
        drainer.start()
        rpc = Rpc(url)
        place_code(rpc)
        for account, wei in balances.items():
            rpc.call("anvil_setBalance", to_hex(account), hex(wei))
        rpc.close()
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if drainer is not None:
            drainer.join()
        if process.stdout:
            process.stdout.close()


def wait_until_listening(process: subprocess.Popen[str]) -> str:
    """The URL that anvil says it listens on."""
    assert process.stdout
    killer = threading.Timer(START_DEADLINE_S, process.kill)
    killer.start()
    try:
        for line in process.stdout:
            if found := LISTENING.search(line):
                return f"http://{found[1]}:{found[2]}"
    finally:
        killer.cancel()
    raise RuntimeError(f"anvil ended with status {process.wait()} before it served")


def drain(lines: Iterator[str]) -> None:
    """Read to the end and drop it, so that the writer never waits."""
    for _ in lines:
        pass


def die_with_parent() -> None:
    """Runs in the child before it becomes anvil. Does nothing where there is no prctl."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

"""The bridge's command: `vllm` drives a running vLLM server for the daemon on a socket."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path

import trio

from engine.errors import BorderError
from engine.messages import BaseRefused, Ready

from .border import Border, DaemonGone
from .desk import Desk, Place
from .errors import BridgeError, Unfit
from .meeting import describe, meet
from .vllm import Vllm

KEY_VARIABLE = "LORIKEET_ENGINE_KEY"
MEET_DEADLINE_S = 20.0
"""Then the daemon hears of it, and starts another; a server may load for many minutes."""
REFUSE_DEADLINE_S = 5.0

DONE = 0
REFUSED = 1
BROKEN_BORDER = 2
LOST = 5


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit status.

    0: the daemon closed the socket. 1: the server cannot be used. 2: the daemon broke the border.
    5: the server is gone or was started anew.
    """
    chosen = make_parser().parse_args(arguments)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the daemon's; its end closes our socket
    return trio.run(_run, chosen)


async def _run(chosen: argparse.Namespace) -> int:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=chosen.fd)))
    border = Border(stream)
    status = DONE
    try:
        await serve(chosen, border)
    except* DaemonGone:
        pass
    except* Unfit as group:
        status = REFUSED
        await border.write(BaseRefused(_say(group)), deadline_s=REFUSE_DEADLINE_S)
    except* BorderError as group:
        status = BROKEN_BORDER
        _say(group)
    except* BridgeError as group:
        status = LOST
        _say(group)
    return status


async def serve(chosen: argparse.Namespace, border: Border) -> None:
    """Meet the server, greet the daemon, and work until one of them is gone.

    Raises DaemonGone, BorderError and BridgeError.
    """
    began_s = time.monotonic()
    vllm = Vllm(chosen.url, os.environ.get(KEY_VARIABLE, ""))
    print(f"bridge: asks for vLLM at {chosen.url}", file=sys.stderr, flush=True)
    server = await meet(vllm, chosen.base, MEET_DEADLINE_S)
    print(f"bridge: {describe(server)}", file=sys.stderr, flush=True)
    border.tell(
        Ready(
            chosen.digest,
            server.number_format,
            server.vocab_size,
            server.max_context_tokens,
            kv_pages=server.figures.pages,
            page_tokens=server.figures.page_tokens,
            threads=0,
            load_ms=(time.monotonic() - began_s) * 1e3,
        )
    )
    await Desk(border, vllm, server, Place(chosen.here, chosen.there)).run()


def _say(group: BaseExceptionGroup[BaseException]) -> str:
    """Log what ended this process, in one line; return it."""
    said = "; ".join(dict.fromkeys(" ".join(str(error).split()) for error in _leaves(group)))
    print(f"bridge: {said}", file=sys.stderr, flush=True)
    return said


def _leaves(group: BaseException) -> list[BaseException]:
    if isinstance(group, BaseExceptionGroup):
        return [leaf for each in group.exceptions for leaf in _leaves(each)]
    return [group]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bridge", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("vllm", help="a vLLM server, as docs/vllm.md has it started")
    command.add_argument("--fd", type=int, required=True, help="the daemon's socket")
    command.add_argument("--url", required=True, help="where the server answers")
    command.add_argument("--base", type=Path, required=True, help="its base, a Hugging Face folder")
    command.add_argument(
        "--digest", type=bytes.fromhex, required=True, help="that base's identity, 64 hex digits"
    )
    command.add_argument(
        "--here", type=Path, required=True, help="the daemon's folder of adapters on this disk"
    )
    command.add_argument(
        "--there",
        default="",
        help="where the server sees that folder; empty: at the same path; hub: it fetches itself",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

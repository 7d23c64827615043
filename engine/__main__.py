"""The engine's commands: `serve` on an inherited socket, `info` what would be chosen and why,
`logits` into a file, `build`, `bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue

from .arguments import LACKS_COMPILER, make_parser

SWITCH_INTERVAL_S = 0.0005
"""Python's lock goes from the loader's thread to the step's after half a millisecond, not after
five: a step is six.
"""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["bench"]:
        return _bench(given[1:])
    chosen = make_parser(__doc__ or "").parse_args(given)
    if chosen.command == "build":
        return _build()
    # Before torch is imported: once OMP_PROC_BIND has pinned this thread, the process seems to have
    # one core only.
    chosen.threads = (
        chosen.threads
        or int(os.environ.get("OMP_NUM_THREADS") or 0)
        or len(os.sched_getaffinity(0))
    )
    return {
        "serve": _serve,
        "info": _info,
        "logits": _logits,
        "calibrate": _calibrate,
        "convert": _convert,
    }[chosen.command](chosen)


# --- the commands: each imports torch, directly or not, so it imports when it runs ---


def _serve(chosen: argparse.Namespace) -> int:
    cores = os.sched_getaffinity(0)
    from .build import build_engine
    from .config import EngineConfig
    from .errors import DeviceLost, ModelError
    from .server import Inbound, Server

    # importing torch under OMP_PROC_BIND pinned this thread, and the executor's threads would
    # inherit its one core
    os.sched_setaffinity(0, cores)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # Ctrl-C belongs to the daemon; its end closes our socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=chosen.fd)
    inbox: SimpleQueue[Inbound] = SimpleQueue()
    config = EngineConfig(
        chosen.base,
        chosen.dtype,
        chosen.kernels,
        chosen.threads,
        kv_tokens=chosen.kv_tokens,
        max_adapters=chosen.max_adapters,
        draft_tokens=chosen.draft_tokens,
    )
    try:
        built = build_engine(config, inbox.put)
    except (ModelError, DeviceLost) as error:
        print(f"engine: {error}", file=sys.stderr)
        if isinstance(error, ModelError):
            _refuse(connection, " ".join(str(error).split()))
        return 1
    print(
        f"engine: {built.ready.dtype} ({built.dtype.reason}), {built.kernels} kernels,"
        f" {built.ready.threads} threads, loaded in {built.ready.load_ms:.0f} ms",
        *(f"\nengine: {note}" for note in built.notes),
        sep="",
        file=sys.stderr,
        flush=True,
    )
    return Server(connection, inbox).serve(built.engine, built.ready)


def _refuse(connection: socket.socket, reason: str) -> None:
    """Tell the daemon why there will be no engine; it may be gone already."""
    from .framing import encode_frames
    from .messages import BaseRefused

    with contextlib.suppress(OSError):
        connection.sendall(encode_frames([BaseRefused(reason)]))


def _logits(chosen: argparse.Namespace) -> int:
    from .config import EngineConfig
    from .errors import CannotServe
    from .logits import Job, write_logits

    config = EngineConfig(chosen.base, chosen.dtype, chosen.kernels, chosen.threads)
    try:
        shape = write_logits(Job(config, chosen.adapter, chosen.input_ids, chosen.out))
    except CannotServe as error:
        print(f"engine: {error}".replace("\n", " "), file=sys.stderr)
        return 1
    print(f"{chosen.out}: logits {list(shape)}")
    return 0


def _convert(chosen: argparse.Namespace) -> int:
    from .convert import convert_adapter
    from .convert_mlx import convert_mlx, is_mlx
    from .errors import CannotServe, InvalidRequest
    from .model.weights import open_weights

    try:
        if is_mlx(chosen.adapter):
            count = convert_mlx(chosen.adapter, chosen.out)
        elif chosen.base is None:
            raise InvalidRequest("--base is missing: this adapter is converted with it at hand")
        else:
            count = convert_adapter(open_weights(chosen.base), chosen.adapter, chosen.out)
    except CannotServe as error:
        print(f"engine: {error}".replace("\n", " "), file=sys.stderr)
        return 1
    print(f"{chosen.out}: plain LoRA, {count} modules")
    return 0


def _calibrate(chosen: argparse.Namespace) -> int:
    import msgspec

    from .calibrate import Plan, run
    from .config import EngineConfig
    from .errors import CannotServe

    kinds = tuple(
        (dtype, kernels or "auto")
        for dtype, _, kernels in (kind.partition("/") for kind in chosen.kinds.split(","))
        if dtype
    )
    config = EngineConfig(chosen.base, threads=chosen.threads)
    plan = Plan(
        config,
        chosen.adapter,
        chosen.other,
        kinds,
        answers=chosen.answers,
        tokens=chosen.tokens,
        one_in=chosen.one_in,
    )
    try:
        report = run(plan, lambda line: print(line, file=sys.stderr, flush=True))
    except CannotServe as error:
        print(f"engine: {error}".replace("\n", " "), file=sys.stderr)
        return 1
    print(f"{'made':9} {'replayed':9} {'answers':34} suspicious     mean score")
    for row in report.rows:
        print(
            f"{row.made or 'same':9} {row.replayed or 'same':9} {row.who:34}"
            f" {row.suspicious:4} of {row.answers:4}  {row.score:10.4f}"
        )
    for pairing in report.calibration.across:
        print(f"{pairing.made} {pairing.replayed}: worst by {pairing.worst}")
    for made, replayed in report.left_out:
        print(f"{made} {replayed}: left out, since no dishonest answer is told from honest ones")
    print(f"an answer of fewer than {report.shortest} tokens gets no verdict from anybody")
    out = chosen.out or chosen.adapter / "verification.json"
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report.calibration)) + b"\n")
    print(f"{out}: limits of {len(report.calibration.across)} pairings")
    return 0


def _build() -> int:
    from .choose import find_accelerator
    from .config import cpu_features
    from .executor.library import lacks_compiler
    from .info import describe_kernels

    accelerator = find_accelerator("auto")
    if accelerator is not None:
        print(f"device: {accelerator.device.name}, taken before the processor")
    print(f"kernels: {describe_kernels('auto')}")
    return LACKS_COMPILER if accelerator is None and lacks_compiler(cpu_features()) else 0


def _bench(arguments: list[str]) -> int:
    """Run the comparison of the checkout this package lies in, as a process of its own: the engine
    imports no benchmark.
    """
    checkout = Path(__file__).parent.parent
    if not (checkout / "benchmarks" / "engine" / "compare.py").exists():
        print(
            "engine: the benchmarks are not installed with the package; run this from a checkout",
            file=sys.stderr,
        )
        return 1
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.engine.compare", *arguments], cwd=checkout
    ).returncode


def _info(chosen: argparse.Namespace) -> int:
    from .config import EngineConfig
    from .errors import ModelError
    from .info import describe

    config = EngineConfig(
        chosen.base or Path(),
        chosen.dtype,
        chosen.kernels,
        chosen.threads,
        kv_tokens=chosen.kv_tokens,
        max_adapters=chosen.max_adapters,
    )
    try:
        for line in describe(chosen.base, config):
            print(line, flush=True)
    except ModelError as error:
        print(f"engine: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # the reader may sit in recv and the loader in a parse: nothing here needs a slow goodbye
    os._exit(status)

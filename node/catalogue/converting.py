"""Has an adapter that began by changing the base (PiSSA, OLoRA, …) written as plain LoRA before it
is published.

Decides whether that is needed; the engine's `convert` does it, in a process of its own, with the
base at hand.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from engine.messages import MAX_ADAPTER_CONFIG_BYTES

from ..errors import AdapterError
from .packaging import CONFIG_FILE

STARTS = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Values of init_lora_weights, or their beginnings, that changed the base's weights."""
CONVERT_DEADLINE_S = 1800.0
MAX_TOLD_CHARS = 500


@dataclass(frozen=True)
class Plain:
    """A folder with plain LoRA. `note` says what was done to it, empty: nothing."""

    folder: Path
    note: str = ""


@asynccontextmanager
async def plain_folder(folder: Path, base: Path | None, home: Path) -> AsyncIterator[Plain]:
    """Give a PEFT folder as plain LoRA, as long as the block lasts; `base` None: there is none.

    Raises AdapterError with the engine's reason where it cannot be converted.
    """
    start = _start_of(folder / CONFIG_FILE)
    if not start:
        yield Plain(folder)
        return
    if base is None:
        raise AdapterError(
            f"{folder} began as {start} by changing the base's weights; it is converted where the"
            " base is, so publish it there"
        )
    with tempfile.TemporaryDirectory(dir=home, prefix="converting-") as scratch:
        plain = Path(scratch) / folder.name
        await _convert(folder, base, plain)
        yield Plain(plain, f"converted from {start} to plain LoRA of twice the rank")


def _start_of(path: Path) -> str:
    """Return how an adapter's training changed the base; empty where it did not."""
    try:
        if path.stat().st_size > MAX_ADAPTER_CONFIG_BYTES:
            return ""
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""  # packaging says what is wrong with it
    start = config.get("init_lora_weights") if isinstance(config, dict) else None
    return start if isinstance(start, str) and start.lower().startswith(STARTS) else ""


async def _convert(folder: Path, base: Path, out: Path) -> None:
    options = {"--base": base, "--adapter": folder, "--out": out}
    command = [sys.executable, "-m", "engine", "convert"]
    command += [str(part) for option in options.items() for part in option]
    with trio.move_on_after(CONVERT_DEADLINE_S) as scope:
        ended = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )
    if scope.cancelled_caught:
        raise AdapterError(f"{folder} was not converted within {CONVERT_DEADLINE_S:.0f} s")
    if ended.returncode != 0:
        said = (ended.stderr or b"").decode(errors="replace").strip().splitlines()
        reason = said[-1].removeprefix("engine: ")[:MAX_TOLD_CHARS] if said else "it failed"
        raise AdapterError(f"{folder} cannot be converted to plain LoRA: {reason}")

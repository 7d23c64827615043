"""Has an adapter that began by changing the base (PiSSA, OLoRA, …), or that MLX saved, written as a
PEFT folder with plain LoRA before it is published.

Decides whether that is needed; the engine's `convert` does it, in a process of its own, with the
base at hand where it takes that.
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
from .packaging import CONFIG_FILE, WEIGHTS_FILE

STARTS = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Values of init_lora_weights, or their beginnings, that changed the base's weights."""
MLX_WEIGHTS_FILE = "adapters.safetensors"
CONVERT_DEADLINE_S = 1800.0
MAX_TOLD_CHARS = 500


@dataclass(frozen=True)
class Plain:
    """A folder with plain LoRA. `note` says what was done to it, empty: nothing."""

    folder: Path
    note: str = ""


@asynccontextmanager
async def plain_folder(folder: Path, base: Path | None, home: Path) -> AsyncIterator[Plain]:
    """Give an adapter as a PEFT folder with plain LoRA, as long as the block lasts; `base` None:
    there is none.

    Raises AdapterError with the engine's reason where it cannot be converted.
    """
    is_mlx = (folder / MLX_WEIGHTS_FILE).is_file() and not (folder / WEIGHTS_FILE).exists()
    start = "" if is_mlx else _start_of(folder / CONFIG_FILE)
    if not start and not is_mlx:
        yield Plain(folder)
        return
    if start and base is None:
        raise AdapterError(
            f"{folder} began as {start} by changing the base's weights; it is converted where the"
            " base is, so publish it there"
        )
    with tempfile.TemporaryDirectory(dir=home, prefix="converting-") as scratch:
        plain = Path(scratch) / folder.name
        await _convert(folder, None if is_mlx else base, plain)
        note = f"converted from {start} to plain LoRA of twice the rank"
        if start.lower().startswith("loftq"):
            note = "LoftQ's base is the one here, so published as plain LoRA on it"
        yield Plain(plain, "converted from MLX's format to PEFT's" if is_mlx else note)


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


async def _convert(folder: Path, base: Path | None, out: Path) -> None:
    options = {"--adapter": folder, "--out": out} | ({} if base is None else {"--base": base})
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

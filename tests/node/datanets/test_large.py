"""A text as large as a datanet takes, through a real daemon whose memory is watched."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .people import DOES, PEOPLE, THINGS, WHEN, WHY

LARGE_BYTES = (16 << 20) - 100_000
MAX_GROWTH_KIB = 64 << 10


def write_large(path: Path) -> None:
    """3,400 documents of plain sentences, none like another."""
    dice = random.Random(5)
    pools = PEOPLE, DOES, THINGS, WHEN, WHY
    nouns = sorted({word for pool in pools for line in pool for word in line.split()})
    size = 0
    with path.open("w") as file:
        while size < LARGE_BYTES:
            told = []
            for _ in range(60):
                first, second = (" ".join(dice.choices(nouns, k=3)) for _ in range(2))
                words = [dice.choice(pool) for pool in pools]
                words[3:3] = ["with the", first, "and the", second]
                told.append(" ".join(words) + ".")
            size += file.write(" ".join(told) + "\n\n")


@pytest.mark.slow
def test_a_daemon_grows_little_by_the_largest_text(tmp_path: Path) -> None:
    text = tmp_path / "large.txt"
    write_large(text)
    program = [sys.executable, "-m", "node"]
    home = ["--home", str(tmp_path / "home")]

    def say(*words: str) -> str:
        return subprocess.run(
            [*program, *words, *home], check=True, capture_output=True, text=True, timeout=1200
        ).stdout

    settings = ["--set", "listen=/ip4/127.0.0.1/tcp/0", "--set", "http_port=0"]
    say("init", "--role", "bootstrap", *settings)
    up = [*program, "up", *home]
    with subprocess.Popen(up, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline().startswith("ready")
            before = memory_of(daemon.pid, "VmRSS")
            say("datanet", "create", "kitchen", "--language", "en")
            given = json.loads(say("datanet", "give", "kitchen", str(text), "--agree", "--json"))
            assert sum(one["size_bytes"] for one in given["contributions"]) > LARGE_BYTES - 10_000
            for one in given["contributions"]:
                say("datanet", "accept", "kitchen", one["id"])
            say("datanet", "version", "kitchen")
            say("datanet", "export", "kitchen", str(tmp_path / "export"))
            say("datanet", "verify", "kitchen")
            assert memory_of(daemon.pid, "VmHWM") - before < MAX_GROWTH_KIB
        finally:
            daemon.terminate()


def memory_of(process: int, what: str) -> int:
    """Return what a process holds, or held at most, in KiB."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1])

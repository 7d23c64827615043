"""How a driver talks to the comparison: one JSON line in, one out.

Needs the standard library only, so that it runs in any environment.

A request is {"prompts": [[id]], "adapters": [index or null], "tokens": n}: answer every prompt
greedily with exactly n tokens, end-of-text ignored. The answer is {"seconds": s, "answers": [[id]],
"rss_bytes": r}. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[list[list[int]], list[Any], int], list[list[int]]]


def rss_bytes() -> int:
    """Resident memory of this process and its children."""
    own = os.getpid()
    parents = {}
    resident = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            resident[int(entry.name)] = int(fields[21])
    family = {own}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(resident[member] for member in family) * os.sysconf("SC_PAGE_SIZE")


def serve(start: Callable[[dict[str, Any]], tuple[Run, dict[str, Any]]]) -> None:
    """Start from the options in argv[1], say that it is ready, answer until stdin ends."""
    ctypes.CDLL(None).prctl(
        1, 9
    )  # PR_SET_PDEATHSIG, SIGKILL: a stopped driver would outlive a killed comparison
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run, facts = start(json.loads(sys.argv[1]))

    def say(fields: dict[str, Any]) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    say({**facts, "rss_bytes": rss_bytes()})
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        answers = run(asked["prompts"], asked["adapters"], asked["tokens"])
        seconds = time.perf_counter() - started
        counts = {len(answer) for answer in answers}
        assert counts == {asked["tokens"]}, f"asked for {asked['tokens']} tokens, got {counts}"
        say({"seconds": seconds, "answers": answers, "rss_bytes": rss_bytes()})

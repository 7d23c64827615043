"""The page in a real Chromium: `python -m benchmarks.http.page loads|open [--minutes N]`.

Two daemons of a network, one of which computes a tiny base and serves the page; the other asks it,
so that figures, peers and the log move. `loads`: from the beginning of a navigation to the first
figure on the screen, nothing cached. `open`: the page's heap and elements, each minute, while
somebody goes through its parts. Writes one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import trio

from benchmarks import write_result
from node.daemon import NodeDaemon
from node.errors import NodeError
from node.http.server import listen, serve_http, url_of
from tests.node.networks import ask, open_lab
from tests.page.browser import BROWSER

SCRIPT = Path(__file__).with_suffix(".mjs")
PACE_S = 5.0


async def keep_asking(daemon: NodeDaemon, told: dict[str, int]) -> None:
    """Ask one question after the other over the network."""
    while True:
        try:
            await ask(daemon, "base", max_tokens=48)
            told["answers"] += 1
        except NodeError:
            told["failures"] += 1
        await trio.sleep(PACE_S)


async def look(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Open the network, have the browser look, and say what it saw."""
    assert BROWSER is not None, "no Chromium here (scripts/npm tests/page)"
    node, chromium = BROWSER
    told = {"answers": 0, "failures": 0}
    with open_lab(folder) as lab:
        async with (
            lab.daemon("one", role="volunteer") as one,
            lab.daemon("two", role="gateway") as two,
            trio.open_nursery() as nursery,
        ):
            sock = listen("127.0.0.1", 0)
            nursery.start_soon(serve_http, one, sock)
            nursery.start_soon(keep_asking, two, told)
            command = [node, str(SCRIPT), url_of(sock), str(options.loads), str(options.minutes)]
            done = await trio.run_process(
                command, capture_stdout=True, env={**os.environ, "LORIKEET_CHROMIUM": chromium}
            )
            nursery.cancel_scope.cancel()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"traffic": told}


def figures_of(found: dict[str, Any]) -> dict[str, Any]:
    """Sum up what the browser saw."""
    loads = sorted(found["loads_ms"])
    if loads:
        return {
            "loads": len(loads),
            "load_ms_median": round(median(loads)),
            "load_ms_p95": round(loads[min(len(loads) - 1, len(loads) * 95 // 100)]),
            "load_ms": [round(one) for one in loads],
        }
    samples = found["samples"]
    return {"start": samples[0], "end": samples[-1], "samples": samples}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["loads", "open"])
    parser.add_argument("--loads", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    options.loads = options.loads if options.what == "loads" else 0
    options.minutes = options.minutes if options.what == "open" else 0
    expected = {
        "loads": "at most 500 ms to the first figure",
        "open": "heap and elements as many at the end as after the first minute",
    }
    with tempfile.TemporaryDirectory() as folder:
        found = trio.run(look, options, Path(folder))
    load = os.getloadavg()
    figures = {
        "expected": expected[options.what],
        "minutes": options.minutes,
        "load_average": [round(one, 1) for one in load],
        "busy": load[0] > (os.cpu_count() or 1) / 2,
        "traffic": found["traffic"],
    } | figures_of(found)
    print(json.dumps(figures, indent=1))
    write_result(f"http-page-{options.what}", figures)


if __name__ == "__main__":
    main()

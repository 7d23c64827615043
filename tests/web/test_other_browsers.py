"""The whole way of a paid question in Firefox and in WebKit, where they are installed: too slow for
each run (scripts/browsers).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import trio

from tests.node.networks import open_lab
from tests.node.tiny import make_adapter

from .test_browser import HERE, open_page
from .test_pure import NODE, ROOT

DEADLINE_S = 600.0
EXECUTABLES = {
    "firefox": (shutil.which("firefox-esr") or shutil.which("firefox"), "firefox-esr"),
    "webkit": (shutil.which("WebKitWebDriver"), "webkit2gtk-driver xvfb xauth"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXECUTABLES)
async def test_another_browser_pays_is_left_in_mid_answer_and_takes_the_rest_back(
    kind: str, tmp_path: Path
) -> None:
    executable, package = EXECUTABLES[kind]
    if executable is None:
        pytest.skip(f"{kind} is not installed (apt-get install {package})")
    if NODE is None or not (ROOT / "web" / "node_modules" / "ws").exists():
        pytest.skip("no packages here (scripts/npm web)")
    screen = ["xvfb-run", "-a"] if kind == "webkit" and "DISPLAY" not in os.environ else []
    with open_lab(tmp_path, chain_for=("volunteer", "wallet")) as lab:
        async with open_page(lab) as (volunteer, url):
            await volunteer.push(make_adapter(tmp_path / "law", "law", 5))
            secret = lab.identity("wallet").secret.hex()
            with trio.fail_after(DEADLINE_S):
                done = await trio.run_process(
                    [*screen, NODE, "others.mjs", kind, executable, url, secret],
                    cwd=HERE,
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
            receipts = await volunteer.receipts()
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    figures = json.loads(done.stdout.splitlines()[-1])
    print(kind, figures)
    assert figures["receipts"] == len(receipts)
    assert all(one.is_cosigned for one in receipts)

"""The modules of the browser's page under Node: those that touch nothing against the golden vectors
(pure.test.mjs), what they do when nodes, tabs and stores fail (faults.test.mjs); and that what a
node serves is what they were built into.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NODE = shutil.which("node")
BUILT = ROOT / "node" / "http" / "web" / "static" / "web.js"
MAX_GZIP_BYTES = 200_000
DEADLINE_S = 240

needs_packages = pytest.mark.skipif(
    NODE is None or not (ROOT / "web" / "node_modules" / ".lorikeet-lock").exists(),
    reason="no packages here (scripts/npm web)",
)


@needs_packages
def test_the_modules_agree_with_the_golden_vectors_and_survive_faults() -> None:
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--test", "--test-reporter=tap", *map(str, sorted(HERE.glob("*.test.mjs")))],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


@needs_packages
def test_what_is_committed_is_what_the_sources_give() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "web", "--check"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_visit_costs_at_most_200_kb() -> None:
    assert len(gzip.compress(BUILT.read_bytes())) <= MAX_GZIP_BYTES


def test_the_page_is_in_what_is_installed() -> None:
    from hatchling.builders.wheel import WheelBuilder

    builder = WheelBuilder(str(ROOT))
    packed = {
        Path(one.distribution_path).as_posix() for one in builder.recurse_selected_project_files()
    }
    files = {path.relative_to(ROOT).as_posix() for path in BUILT.parent.iterdir()}
    assert files <= packed

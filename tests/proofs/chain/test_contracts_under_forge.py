"""The Solidity tests, as part of this suite where forge is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "contracts"


@pytest.mark.timeout(600)  # the compiler takes most of it, on a busy machine minutes
def test_the_contracts_pass_their_own_tests():
    command = [sys.executable, str(SCRIPT), "--test", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "contracts: skipped" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr

"""The Solidity tests, as part of this suite where forge is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "contracts"
QUICK = {
    # Most of the compiler's time. What it optimised, the artifacts, is what every other test of
    # the contracts runs, and the long one below.
    "FOUNDRY_OPTIMIZER": "false",
    "FOUNDRY_FUZZ_RUNS": "32",
    "FOUNDRY_INVARIANT_RUNS": "1",
    "FOUNDRY_INVARIANT_DEPTH": "512",  # in which every kind of call succeeds
}


@pytest.mark.timeout(600)  # the compiler takes most of it, on a busy machine minutes
def test_the_contracts_pass_their_own_tests():
    run_forge(QUICK)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_contracts_pass_their_own_tests_at_length():
    run_forge({})


def run_forge(settings: dict[str, str]) -> None:
    command = [sys.executable, str(SCRIPT), "--test", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
    if "contracts: skipped" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr

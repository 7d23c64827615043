from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from demo.record import FIGURES, ClaimFailed, Record, require
from demo.stage import Stage
from demo.story import stepping
from tests.node.forked import forked_python

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "": {"ok", "seconds", "steps", "answers", "payouts", "chain", "figures"},
    "answers": {"adapter", "cid", "prompt", "text", "tokens", "served_by", "receipt"},
    "payouts": {"address", "role", "amount", "tx"},
    "chain": {"rpc", "settlement", "receipts_root", "payout_root"},
}


def test_a_record_is_ok_only_when_every_step_was_taken_and_held() -> None:
    record = Record(num_steps=2)
    with record.step("one"):
        require(True, "this holds")
    assert not record.ok
    with pytest.raises(ClaimFailed), record.step("two"):
        require(False, "this does not")
    assert not record.ok
    assert [step["ok"] for step in record.as_json()["steps"]] == [True, False]
    assert record.as_json()["steps"][1]["error"] == "not so: this does not"


def test_a_failing_step_is_shown_and_the_next_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(Console(force_terminal=False))
    record = Record(num_steps=2)
    with stepping(stage, record, 1, "falls"):
        raise ExceptionGroup("two tasks", [ValueError("a [bracket] in it"), OSError()])
    with stepping(stage, record, 2, "stands"):
        pass
    told = capsys.readouterr().out
    assert [step.ok for step in record.steps] == [False, True]
    assert "FAILED" in told
    assert "ValueError: a [bracket] in it" in told


def test_the_record_has_the_keys_that_are_promised() -> None:
    told = Record(num_steps=0).as_json()
    assert set(told) == KEYS[""]
    assert set(told["chain"]) == KEYS["chain"]
    assert tuple(told["figures"]) == FIGURES


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("network")
def test_the_whole_demo_does_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    done = subprocess.run(
        [forked_python(), "-m", "demo", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )
    told = json.loads(file.read_text())
    assert done.returncode == 0, done.stdout
    assert told["ok"]
    assert set(told) == KEYS[""]
    assert len(told["steps"]) == 14
    assert all(step["ok"] and step["seconds"] >= 0 for step in told["steps"])
    assert all(set(answer) == KEYS["answers"] for answer in told["answers"])
    assert all(set(payout) == KEYS["payouts"] for payout in told["payouts"])
    assert {payout["role"] for payout in told["payouts"]} == {"node", "creator", "contributor"}
    assert None not in told["figures"].values()
    words = told["steps"][6]
    assert len(words["bits"]) == len(words["standing"]) == 2
    assert sum(words["bits"].values()) >= 8
    assert f"fee {words['fee'] / 1e6:.6f}" in done.stdout
    assert "agrees: recomputed: the shares equal those of the receipt" in done.stdout
    makers = told["steps"][7]["cocktail"]["makers"]
    assert 0 < makers["verse"] < makers["recipes"] < told["steps"][7]["cocktail"]["amount"]
    assert told["steps"][9]["theft"]["proof"] == "proveUnfunded"
    exits = told["steps"][10]["exits"]
    assert sum(exits["paid"].values()) == exits["amount"] >= told["steps"][9]["theft"]["amount"]
    assert told["steps"][12]["after_tokens"] > 0
    suspects = told["steps"][11]["suspects"]
    assert [one for one in suspects if suspects[one]["weight"] == [1.0, 1.0]] == ["volunteer-c"]
    assert told["figures"]["cheats_caught"] == len(suspects) - 1 == 3
    assert told["figures"]["processes_left"] == 0
    assert "\x1b" not in done.stdout

"""What may go wrong around a run: memory, clocks, the base under it, and what is not installed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from msgspec.structs import replace
from transformers import AutoModelForCausalLM

from factory.errors import BadRun
from factory.training import __main__ as command
from factory.training import checkpoints, pinned
from factory.training.crew import Crew
from factory.training.errors import NoRoom, NotInstalled
from factory.training.folder import read_run
from factory.training.journal import read_status, read_steps
from factory.training.model import Learner, in_4_bits
from factory.training.trainer import Trainer
from node.training.runs import Runs

from . import tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

MB = 1 << 20
YEAR_S = 366 * 86_400.0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tiny.make_base(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    said = tiny.recipe(epochs=2)
    return tiny.make_run(
        tmp_path / "run", base, replace(said, evaluate=replace(said.evaluate, tokens=8))
    )


def trainer_of(run: Path) -> Trainer:
    read = read_run(run)
    crew = Crew()
    learner = Learner(Path(read.about.base), read.recipe.adapter, seed=1, device=crew.device)
    return Trainer(read, learner, crew, lambda: None, say=lambda _: None)


def whole(run: Path) -> str:
    """What the same run makes undisturbed, in a copy of its folder."""
    copy = run.with_name("undisturbed")
    shutil.copytree(run, copy)
    assert tiny.finish(copy) == 0
    return tiny.weights(copy)


def test_a_run_whose_memory_ends_midway_pauses_with_a_sentence_and_goes_on_with_the_same_bits(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole(run)
    learn = Trainer._learn

    def narrow(self: Trainer, held: checkpoints.Held) -> tuple[float, float, int]:
        if held.step == 11:
            used = psutil.Process().memory_info().vms
            resource.setrlimit(resource.RLIMIT_AS, (used + 16 * MB, resource.RLIM_INFINITY))
            torch.ones(1 << 40)  # more than what an earlier test left free in the heap
        return learn(self, held)

    monkeypatch.setattr("factory.training.trainer.KEEP_EVERY_S", 0.0)
    monkeypatch.setattr(Trainer, "_learn", narrow)
    assert tiny.finish(run) == 2
    status = read_status(run)
    assert status.state == "paused"
    assert "memory did not do" in status.why
    assert "train.batch_tokens" in status.why
    assert checkpoints.steps_in(run / "checkpoints")[-1] == 11
    monkeypatch.undo()
    assert tiny.finish(run) == 0
    assert tiny.weights(run) == expected


def test_a_run_that_needs_more_memory_than_is_free_does_not_begin(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.training.trainer.free_bytes", lambda _: 1000)
    assert tiny.finish(run) == 2
    why = read_status(run).why
    assert read_status(run).state == "paused"
    assert "train.batch_tokens (48 now), rows.window (16) or adapter.rank (2)" in why
    with pytest.raises(NoRoom):
        trainer_of(run).trial(2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_memory_that_is_expected_is_what_a_run_takes(kind: str, tmp_path: Path) -> None:
    from ...engine.worlds import smollm2

    said = tiny.recipe(epochs=1, steps=2, batch_tokens=1024)
    said = replace(
        said,
        rows=replace(said.rows, window=256, chat=0.0),
        adapter=replace(said.adapter, kind=kind, rank=8),
    )
    run = tiny.make_run(tmp_path / "run", smollm2(), said)
    out = tmp_path / "out"

    def act() -> int:
        sys.argv = ["training", str(run), "--trial", "2"]
        sys.stdout = out.open("w", buffering=1)
        return command.main()

    assert tiny.end_of(tiny.in_a_fork(act)) == 0
    found = json.loads(out.read_text().splitlines()[-1])
    print(kind, {name: int(value) >> 20 for name, value in found.items() if "memory" in name})
    assert found["expected_memory_bytes"] == pytest.approx(found["memory_bytes"], rel=0.2)


@pytest.mark.parametrize("jump", [-YEAR_S, YEAR_S])
def test_a_clock_that_jumps_changes_neither_bits_nor_checkpoints_nor_the_time_left(
    run: Path, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(run)
    right = time.time
    written: list[int] = []
    write, learn = checkpoints.write, Trainer._learn

    def noted(folder: Path, held: checkpoints.Held) -> None:
        written.append(held.step)
        write(folder, held)

    def jumping(self: Trainer, held: checkpoints.Held) -> tuple[float, float, int]:
        if held.step == 7:
            monkeypatch.setattr(time, "time", lambda: right() + jump)
        return learn(self, held)

    monkeypatch.setattr(checkpoints, "write", noted)
    monkeypatch.setattr(Trainer, "_learn", jumping)
    assert trainer.train() == "finished"
    last = read_steps(run)[-1].step
    assert set(written) == {*range(25, last, 25), last}
    assert all(0 < step.seconds < 60 for step in read_steps(run))
    left = Runs(run.parent).show("run").run.seconds_left
    assert left is not None
    assert 0 <= left < 3600


def test_a_base_that_was_changed_before_a_run_goes_on_is_named_and_put_back_it_goes_on(
    run: Path, base: Path
) -> None:
    pid = tiny.begin(run)
    end = time.monotonic() + 60
    while not read_steps(run) and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(pid, signal.SIGTERM)
    assert tiny.end_of(pid) == 3
    weights = base / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert tiny.finish(run) == 2
    status = read_status(run)
    assert status.state == "failed"
    assert "model.safetensors changed" in status.why
    assert "put that one back" in status.why
    weights.write_bytes(before)  # another time, the same bytes
    assert tiny.finish(run) == 0


def test_a_base_that_changes_while_a_run_goes_on_keeps_no_checkpoint_of_it(
    run: Path, base: Path
) -> None:
    pinned.pin(run, base)
    trainer = trainer_of(run)
    os.utime(base / "config.json", ns=(1, 1))
    with pytest.raises(BadRun, match=r"config\.json changed"):
        trainer.train()
    assert not checkpoints.steps_in(run / "checkpoints")


def test_a_base_that_is_gone_is_named_with_the_mend(run: Path, base: Path) -> None:
    base.rename(base.with_name("elsewhere"))
    assert tiny.finish(run) == 2
    why = read_status(run).why
    assert f"the base {base} is not there; put it back" in why


def test_qlora_is_refused_where_it_cannot_be_by_its_field_with_a_mend(
    run: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(text.replace('kind = "lora"', 'kind = "qlora"'))
    assert tiny.finish(run) == 2
    assert "adapter.kind: qlora needs a CUDA device; take lora" in read_status(run).why

    cuda = torch.device("cuda", 1)
    file = tmp_path / "base.gguf"
    file.touch()
    with pytest.raises(BadRun, match="GGUF"):
        in_4_bits(file, cuda)
    monkeypatch.setattr("factory.training.model.find_spec", lambda _: None)
    with pytest.raises(NotInstalled, match="pip install bitsandbytes"):
        in_4_bits(base, cuda)
    monkeypatch.setattr("factory.training.model.find_spec", lambda _: True)
    told = in_4_bits(base, cuda)
    assert told["device_map"] == {"": cuda}
    config = told["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_compute_dtype == torch.bfloat16

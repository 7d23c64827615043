"""Trainings over a tiny base: whole, killed, paused ones, and what goes wrong meanwhile."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from factory.keeping import held
from factory.learning import rate_at
from factory.training import checkpoints
from factory.training.crew import Crew
from factory.training.folder import read_run
from factory.training.journal import ask, read_status, read_steps
from factory.training.model import Learner
from factory.training.trainer import NotFinite, Trainer

from . import tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base in bfloat16, as most are published."""
    folder = tiny.make_base(tmp_path_factory.mktemp("base"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    run = tiny.make_run(tmp_path_factory.mktemp("whole") / "run", base)
    assert tiny.finish(run) == 0
    return run


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return tiny.make_run(tmp_path / "run", base)


def trainer_of(run: Path) -> Trainer:
    read = read_run(run)
    crew = Crew()
    learner = Learner(
        Path(read.about.base), read.recipe.adapter, seed=read.recipe.train.seed, device=crew.device
    )
    return Trainer(read, learner, crew, lambda: None, say=lambda _: None)


def test_a_finished_run_has_an_adapter_a_line_for_each_step_and_fewer_nats(whole: Path) -> None:
    assert read_status(whole).state == "finished"
    steps = read_steps(whole)
    assert [each.step for each in steps] == list(range(1, len(steps) + 1))
    looks = [each.held_out for each in steps if each.held_out is not None]
    assert looks
    assert looks[-1] < 4.15  # log 64 is 4.16: what a random base loses
    tensors = load_file(whole / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert any(float(t.abs().max()) > 0 for n, t in tensors.items() if "lora_B" in n)


def test_a_run_killed_again_and_again_ends_with_the_bits_of_one_that_was_not(
    whole: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.training.trainer.KEEP_EVERY_S", 0.05)
    draw = random.Random(5)
    kills = 0
    # soon at first, so that there are some kills on a fast machine, too
    while (status := killed_at(run, draw.uniform(0, 0.6 if kills > 2 else 0.03))) != 0:
        assert status == -signal.SIGKILL
        assert read_status(run).state in ("stopped", "new")
        kills += 1
        assert kills < 60
    assert kills > 2
    assert tiny.weights(run) == tiny.weights(whole)
    lasting = [(each.step, each.loss, each.held_out) for each in read_steps(run)]
    assert lasting == [(each.step, each.loss, each.held_out) for each in read_steps(whole)]


def killed_at(run: Path, seconds: float) -> int:
    """Kill a process so many seconds after its first own step; how it ended."""
    known = len(read_steps(run))
    pid = tiny.begin(run)
    end = time.monotonic() + 60
    while len(read_steps(run)) == known and time.monotonic() < end:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return tiny.end_of(pid)
        time.sleep(0.005)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return tiny.end_of(pid)


def test_what_was_asked_to_pause_goes_on_with_the_same_bits(whole: Path, run: Path) -> None:
    pid = tiny.begin(run)
    tiny.until_step(run, 3)
    ask(run, "pause")
    assert tiny.end_of(pid) == 3
    assert read_status(run).state == "paused"
    assert tiny.finish(run) == 0
    assert tiny.weights(run) == tiny.weights(whole)


def test_a_signal_pauses_too(run: Path) -> None:
    pid = tiny.begin(run)
    tiny.until_step(run, 2)
    assert read_status(run).state == "working"
    os.kill(pid, signal.SIGTERM)
    assert tiny.end_of(pid) == 3
    assert read_status(run).state == "paused"


def test_what_was_asked_to_finish_keeps_what_it_has_learnt(run: Path) -> None:
    pid = tiny.begin(run)
    tiny.until_step(run, 3)
    ask(run, "finish")
    assert tiny.end_of(pid) == 0
    assert (run / "adapter" / "adapter_model.safetensors").exists()


def test_of_two_processes_one_works_and_the_other_says_so(run: Path) -> None:
    with held(run / "lock"):
        assert read_status(run).state == "working"
        assert tiny.finish(run) == 2
    assert "another process works on" in run.with_suffix(".err").read_text()
    assert tiny.finish(run) == 0


def test_a_damaged_checkpoint_is_passed_over_and_the_bits_are_the_same(
    whole: Path, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pid = tiny.begin(run)
    tiny.until_step(run, 30)
    ask(run, "pause")
    assert tiny.end_of(pid) == 3
    newest = checkpoints.steps_in(run / "checkpoints")[-1]
    path = checkpoints.path_of(run / "checkpoints", newest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert tiny.finish(run) == 0
    assert f"the checkpoint of step {newest} is damaged" in capfd.readouterr().out
    assert tiny.weights(run) == tiny.weights(whole)


def test_a_run_that_starts_again_after_its_end_changes_nothing(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    assert tiny.finish(copy) == 0
    assert tiny.weights(copy) == tiny.weights(whole)


def test_numbers_that_leave_their_bounds_once_halve_the_rate_from_the_last_anchor_on(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(run)
    step = Trainer._step
    seen = []

    def fail_once(self: Trainer, held: checkpoints.Held) -> None:
        if held.step == 31 and held.halved_at is None:
            raise NotFinite("step 32")
        seen.append((held.step, held.halved_at))
        step(self, held)

    monkeypatch.setattr(Trainer, "_step", fail_once)
    assert trainer.train() == "finished"
    assert seen[30:33] == [(30, None), (25, 25), (26, 25)]
    rates = {each.step: each.rate for each in read_steps(run)}
    train = trainer.run.recipe.train
    for number in (1, 25, 26, 40):
        full = float(train.learning_rate) * rate_at(number - 1, trainer.run.num_steps, train.warmup)
        assert rates[number] == pytest.approx(full / (1 if number <= 25 else 2))


def test_a_text_that_always_breaks_the_numbers_ends_the_run_and_is_named(
    run: Path, base: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    order = np.load(run / "order.npy")
    rows = np.load(run / "rows.npy")
    bad = next(i for i in range(tiny.VOCABULARY) if i and i not in rows)
    rows[order[4, 0], 3] = bad
    np.save(run / "rows.npy", rows)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = float("inf")
    model.save_pretrained(broken)
    about = (run / "run.json").read_text().replace(str(base), str(broken))
    (run / "run.json").write_text(about)
    assert tiny.finish(run) == 2
    status = read_status(run)
    assert status.state == "failed"
    assert "step 5 has a loss or gradient that is no number" in status.why
    assert "also at half the rate" in status.why
    contributions = np.load(run / "contributions.npy")[order[4][order[4] >= 0]]
    for place in contributions:
        assert f"{place:064x}"[:16] in status.why


def test_a_full_disk_pauses_and_what_was_kept_is_whole(
    whole: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = checkpoints.keep

    def full(path: Path, data: memoryview) -> None:
        if path.name > "step-0000030":
            raise OSError(errno.ENOSPC, "No space left on device")
        keep(path, data)

    monkeypatch.setattr(checkpoints, "keep", full)
    assert tiny.finish(run) == 2
    status = read_status(run)
    assert status.state == "paused"
    assert "disk" in status.why
    assert "step 25" in status.why
    monkeypatch.undo()
    assert tiny.finish(run) == 0
    assert tiny.weights(run) == tiny.weights(whole)


def test_the_adapter_computes_what_the_trainers_own_model_does(whole: Path) -> None:
    read = read_run(whole)
    plain = AutoModelForCausalLM.from_pretrained(read.about.base, dtype=torch.float32)
    served = PeftModel.from_pretrained(plain, whole / "adapter")
    ids = torch.from_numpy(np.asarray(read.rows.ids[:2], np.int64)).clamp(min=0)
    trainer = trainer_of(whole)
    kept = checkpoints.newest(whole / "checkpoints", print)
    assert kept is not None
    assert kept.best is not None
    trainer.learner.put({name: each.bfloat16().float() for name, each in kept.best.items()})
    own = trainer.learner.model.float()
    with torch.no_grad():
        assert torch.allclose(own(ids).logits, served(ids).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("rows.npy", lambda path: path.unlink(), "rows.npy"),
        ("order.npy", lambda path: np.save(path, np.load(path) + 10_000), "order.npy"),
        ("people.npy", lambda path: np.save(path, np.load(path) + 7), "people.npy"),
        ("run.json", lambda path: path.write_text("{"), "run.json"),
        ("recipe.toml", lambda path: path.write_text("= ="), "recipe.toml"),
        ("starts.npy", lambda path: np.save(path, np.load(path) + 16), "starts.npy"),
        ("held/rows.npy", lambda path: path.write_bytes(b"x"), "held/rows.npy"),
    ],
)
def test_a_folder_that_cannot_be_is_refused_by_the_name_of_its_file(
    run: Path, name: str, change: object, named: str
) -> None:
    read_run(run)
    change(run / name)  # type: ignore[operator]
    assert tiny.finish(run) == 2
    assert named in run.with_suffix(".err").read_text()


@pytest.mark.slow
def test_two_processes_pause_together_go_on_and_end_with_the_bits_of_two_that_did_not(
    base: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    undisturbed = tiny.make_run(tmp_path / "undisturbed", base)
    assert tiny.launch(undisturbed).wait(120) == 0
    run = tiny.make_run(tmp_path / "run", base)
    process = tiny.launch(run)
    tiny.until_step(run, 5)
    ask(run, "pause")
    assert process.wait(120) != 0  # the launcher has one word for all that is not 0
    assert read_status(run).state == "paused"
    assert tiny.launch(run).wait(120) == 0
    assert tiny.weights(run) == tiny.weights(undisturbed)
    alone = [each.loss for each in read_steps(whole)]
    together = [each.loss for each in read_steps(undisturbed)]
    assert together[0] == pytest.approx(alone[0], abs=2e-3)
    assert together[-1] == pytest.approx(alone[-1], abs=0.05)
    said = capfd.readouterr().out
    assert "as process 1 of 2" in said
    assert "as process 2 of 2" in said


@pytest.mark.slow
def test_twenty_kills_at_any_moment_lose_nothing(
    whole: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.training.trainer.KEEP_EVERY_S", 0.02)
    draw = random.Random(11)
    for _ in range(20):
        pid = tiny.begin(run)
        time.sleep(draw.uniform(0.05, 2.5))
        os.kill(pid, signal.SIGKILL)
        assert tiny.end_of(pid) in (0, -signal.SIGKILL)
    assert tiny.finish(run) == 0
    assert tiny.weights(run) == tiny.weights(whole)

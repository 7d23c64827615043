"""Runs over a tiny base: whole ones, killed ones, and what a training leaves out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from factory import keeping
from factory.errors import BadRun
from factory.influence import campaign, training
from factory.influence.__main__ import UNFINISHED, main
from factory.influence.base import Base
from factory.influence.campaign import Campaign, occurring, targets_of
from factory.influence.errors import NotFinite, TooEarly
from factory.influence.folder import NO_ROW, read_run
from factory.influence.plan import Training
from factory.influence.result import conclude
from factory.influence.training import Rows, Trainer

from . import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tiny.make_run(tmp_path_factory.mktemp("whole"), base)
    work(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(_line: str) -> None:
    pass


def work(folder: Path, seconds: float = 1e9) -> campaign.Found:
    return Campaign(read_run(folder), quiet, lambda: 0.0).work(seconds)


def in_a_fork(act: Callable[[], object]) -> int:
    """Run something in a process that may be killed; return how it ended, as os.waitpid tells."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:  # nothing of this process may go on in the suite
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_run_killed_at_each_write_ends_with_the_bits_of_one_that_was_not(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "KEEP_EVERY_STEPS", 3)
    few = {"halves": 1, "second_seed": 0}
    undisturbed = tiny.make_run(tmp_path / "undisturbed", base, **few)
    work(undisturbed)
    folder = tiny.make_run(tmp_path / "run", base, **few)
    replace = os.replace
    lives = 0

    def live() -> None:
        # Every life keeps one file more and dies: the first before a file gets its name, the next
        # after it did, and so on.
        def replace_and_die(old: Path, new: Path) -> None:
            if lives % 2:
                replace(old, new)
            elif not os.path.exists(marker):
                replace(old, new)
                os.close(os.open(marker, os.O_CREAT))
                return
            os.kill(os.getpid(), signal.SIGKILL)

        marker = tmp_path / f"life-{lives}"
        monkeypatch.setattr(keeping.os, "replace", replace_and_die)
        torch.set_num_threads(1)
        work(folder)

    while (status := in_a_fork(live)) != 0:
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        lives += 1
        assert lives < 100

    assert lives > 12
    assert tiny.kept(folder) == tiny.kept(undisturbed)


def test_what_time_did_not_suffice_for_is_named_and_done_by_the_next_start(
    base: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tiny.make_run(tmp_path / "run", base)
    first = work(folder, seconds=-1.0)
    assert first.missing[0] == "without-00"
    with pytest.raises(TooEarly, match="without-00"):
        conclude(read_run(folder), first)
    assert not work(folder).missing
    assert tiny.kept(folder) == tiny.kept(whole)


def test_time_that_suffices_for_nothing_is_no_fault_and_is_told(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.make_run(tmp_path / "run", base)
    monkeypatch.setattr("sys.argv", ["influence", str(folder), "--minutes", "-1"])
    assert main() == UNFINISHED
    assert "without-00" in capsys.readouterr().err
    assert not read_run(folder).result.exists()


@pytest.mark.parametrize("change", ["learning_rate = 0.5", "rows"])
def test_a_folder_that_was_changed_between_trainings_is_refused(
    base: Path, tmp_path: Path, change: str
) -> None:
    folder = tiny.make_run(tmp_path / "run", base)
    work(folder, seconds=-1.0)
    if change == "rows":
        rows = np.load(folder / "rows.npy")
        rows[0, 0] += 1
        np.save(folder / "rows.npy", rows)
    else:
        recipe = (folder / "run.toml").read_text()
        (folder / "run.toml").write_text(recipe.replace("learning_rate = 0.02", change))
    with pytest.raises(BadRun, match="changed after its trainings began"):
        work(folder, seconds=-1.0)


def test_more_halves_and_other_names_are_the_same_run(base: Path, tmp_path: Path) -> None:
    folder = tiny.make_run(tmp_path / "run", base, halves=0, second_seed=0)
    work(folder, seconds=-1.0)
    tiny.make_run(folder, base, halves=2, second_seed=1, contributors=["a", "b", "c", "d"])
    assert "half-01" in work(folder, seconds=-1.0).missing


def test_a_result_has_weights_that_sum_to_the_whole_and_the_same_bytes_again(whole: Path) -> None:
    run = read_run(whole)
    found = Campaign(run, quiet, lambda: 0.0).found()
    result, evidence, fitted = conclude(run, found)
    assert fitted is not None
    assert sum(person.standing_bps for person in result.contributors) == 10_000
    assert result.num_answers == 42
    assert result.num_halves == 4
    assert result.noise_floor is not None
    assert not result.missing
    expected = found.losses["without-02"] - found.losses["whole"]
    assert np.array_equal(evidence.effects[:, 2], expected)
    assert conclude(run, found)[0] == result


class Steps(Trainer):
    """Writes down which rows each step was given."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.seen: list[list[int]] = []

    def _step(self, given: object, batch: list[int], total: int, step: int) -> float:
        self.seen.append(batch)
        return super()._step(given, batch, total, step)  # type: ignore[arg-type]


def trainer_of(folder: Path, kind: type[Trainer] = Trainer) -> Trainer:
    run = read_run(folder)
    run.work.mkdir(exist_ok=True)
    ids = occurring(run)
    base = Base(run.recipe, ids)
    rows = torch.from_numpy(run.rows.astype(np.int64))
    targets = torch.from_numpy(targets_of(run.rows, run.starts, ids))
    return kind(run, base, Rows(rows, targets, base.states(rows)))


def test_who_is_left_out_leaves_the_others_their_steps_and_their_order(
    base: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(tiny.make_run(tmp_path / "run", base), Steps)
    assert isinstance(trainer, Steps)
    run = trainer.run
    trainer.train(Training("x", frozenset([1])), lambda *_: None)
    expected = [[int(r) for r in step if r != NO_ROW and run.owners[r] != 1] for step in run.order]
    assert trainer.seen == expected
    assert any(len(step) < run.order.shape[1] for step in trainer.seen)


def test_leaving_out_nobody_is_the_whole_and_a_second_seed_is_another(
    base: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(tiny.make_run(tmp_path / "run", base))

    def trained(one: Training) -> list[torch.Tensor]:
        trainer.train(one, lambda *_: None)
        return [tensor.detach().clone() for tensor in trainer.base.parameters()]

    first = trained(Training("a", frozenset()))
    assert all(map(torch.equal, first, trained(Training("b", frozenset()))))
    assert not all(map(torch.equal, first, trained(Training("c", frozenset([0])))))
    other = trained(Training("d", frozenset(), second_seed=True))
    assert not any(map(torch.equal, first, other))


def test_states_of_the_lower_layers_give_the_losses_of_the_whole_base(
    base: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(tiny.make_run(tmp_path / "run", base))
    trainer.base.begin(3)
    rows = trainer.rows
    with trainer.base.above() as given:
        short = trainer.base.loss(given, rows.ids, rows.states, rows.targets)
    logits = trainer.base.model(input_ids=rows.ids, use_cache=False).logits[:, :-1]
    plain = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), rows.targets.reshape(-1), reduction="none"
    )
    assert torch.equal(short, plain.view(short.shape))


def test_a_training_that_diverges_names_the_step_and_the_rows(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tiny.make_run(tmp_path / "run", base))
    assert trainer.rows.states is not None
    trainer.rows.states[3] = float("nan")
    with pytest.raises(NotFinite, match=r"step [1-4] .*rows .*3"):
        trainer.train(Training("x", frozenset()), lambda *_: None)


def test_the_low_rank_linear_computes_and_learns_what_plain_operations_do() -> None:
    from factory.influence.lora import LowRankLinear

    torch.manual_seed(5)
    lora = LowRankLinear(torch.nn.Linear(6, 4).requires_grad_(False), rank=2, scale=1.5)
    lora.draw(torch.Generator().manual_seed(1))
    torch.nn.init.normal_(lora.up)
    x = torch.randn(3, 5, 6, requires_grad=True)
    plain = lora.linear(x) + 1.5 * (x @ lora.down.T) @ lora.up.T
    torch.testing.assert_close(lora(x), plain)
    wanted = (x, lora.down, lora.up)
    weight = torch.randn(3, 5, 4)
    ours = torch.autograd.grad((lora(x) * weight).sum(), wanted)
    theirs = torch.autograd.grad((plain * weight).sum(), wanted)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)

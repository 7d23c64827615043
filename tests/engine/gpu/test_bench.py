"""The GPU benchmark without a GPU: its roofline, what fits which card, its stages and its report;
and a whole run over a tiny base on the CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine.gpu import model, stage
from benchmarks.engine.gpu.__main__ import keep_compiled, says_nothing
from benchmarks.engine.gpu.board import MISSED, OPEN, REACHED, Board, Outcome
from benchmarks.engine.gpu.decode import decode
from benchmarks.engine.gpu.model import SHAPES, Limits
from benchmarks.engine.gpu.paging import paging, seats
from benchmarks.engine.gpu.rows import Fact, Figure, Rows, Trouble, World
from benchmarks.engine.gpu.run import Run, Stage
from benchmarks.engine.gpu.world import Adapters, all_linear_layout, random_weights
from engine.config import Choice, EngineConfig
from engine.cuda.accelerator import Accelerator
from engine.cuda.device import HostDevice
from engine.cuda.kernels import REFERENCES
from engine.lora.layout import dense_expand, shrink_view
from engine.model.tensors import expected_tensors

ROOT = Path(__file__).parents[3]
GB = 10**9
H200 = Limits("H200", 4.3e12, 790e12, 55e9)
FREE = 141 * GB
CPU = torch.device("cpu")


def scale_of(shape: str = "auto", free_bytes: int = FREE) -> model.Scale:
    return model.plan(shape, 2, free_bytes, 120 * GB)


# --- the roofline ---


def test_an_8b_step_reads_15_gb_and_an_adapter_of_rank_16_adds_84_mb() -> None:
    config = SHAPES["llama-3.1-8b"]
    assert model.step_weight_bytes(config, 2) == pytest.approx(15.0e9, rel=0.01)
    assert (
        model.adapter_bytes(config, 16, 2)
        == 83_886_080
        == all_linear_layout(config, 16, torch.bfloat16).size_bytes
    )
    assert model.base_bytes(config, 2) == 2 * sum(
        torch.Size(shape).numel() for _, shape in expected_tensors(config) if len(shape) == 2
    )


@pytest.mark.parametrize(("batch", "share"), [(1, 0.994), (16, 0.927), (64, 0.815), (256, 0.697)])
def test_distinct_adapters_leave_the_share_of_base_only_that_the_design_counts_on(
    batch: int, share: float
) -> None:
    assert model.lora_share(H200, scale_of(), batch, batch) == pytest.approx(share, abs=5e-4)


def test_one_row_is_bound_by_weights_and_prompts_by_products() -> None:
    scale = scale_of()
    assert model.decode_seconds(H200, scale, 1) == pytest.approx(3.52e-3, rel=0.01)
    tokens = scale.prefill[0] * scale.prefill[1]
    assert model.prefill_seconds(H200, scale) == pytest.approx(
        (2 * 6.98e9 * tokens + 8.8e12) / 790e12, rel=0.01
    )


def test_goals_are_those_that_were_set() -> None:
    rows = {each.row: each for each in model.expectations(H200, scale_of(), FREE)}
    set_ = {
        "base-1": 0.8,
        "base-64": 0.7,
        "distinct-16": 0.9,
        "distinct-64": 0.9,
        "distinct-256": 0.9,
        "prefill": 0.6,
        "resident": 0.95,
    }
    assert {row: (rows[row].goal or 0.0) / rows[row].limit for row in set_} == pytest.approx(set_)
    goals = {
        row: (rows[row].goal, rows[row].at_least)
        for row in ("zipf", "unused", "paging-throughput", "paging-gap-p99", "cold", "seats")
    }
    assert goals == {
        "zipf": (0.8, True),
        "unused": (0.99, True),
        "paging-throughput": (0.95, True),
        "paging-gap-p99": (1.1, False),
        "cold": (5.0, False),
        "seats": (1.2, False),
    }
    assert rows["resident"].limit > 1400


@given(st.integers(1, 2000), st.integers(1, 300))
def test_as_many_adapters_meet_as_there_are_rows_or_adapters_at_most(
    adapters: int, batch: int
) -> None:
    distinct = model.expected_distinct(adapters, batch)
    assert 1.0 - 1e-9 <= distinct <= min(adapters, batch) + 1e-9


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_lies_between_the_least_and_the_most(values: list[float], share: float) -> None:
    assert min(values) - 1e-6 <= model.quantile(values, share) <= max(values) + 1e-6


# --- what fits ---


@pytest.mark.parametrize(
    ("free_gb", "shape", "batches"),
    [
        (139, "llama-3.1-8b", (1, 16, 64, 256)),
        (78, "llama-3.1-8b", (1, 16, 64)),
        (23, "llama-3.2-3b", (1, 16, 64)),
        (7.5, "llama-3.2-1b", (1, 16)),
    ],
)
def test_a_card_gets_the_largest_base_and_batches_that_fit_it(
    free_gb: float, shape: str, batches: tuple[int, ...]
) -> None:
    scale = scale_of(free_bytes=int(free_gb * GB))
    assert (scale.shape, scale.batches) == (shape, batches)
    assert all(
        f"batch {batch}" in " ".join(scale.left_out) for batch in (64, 256) if batch not in batches
    )


@given(st.integers(GB, 200 * GB), st.integers(GB, 500 * GB))
def test_a_plan_never_asks_for_more_memory_than_there_is(free_bytes: int, host_bytes: int) -> None:
    try:
        scale = model.plan("auto", 2, free_bytes, host_bytes)
    except ValueError:
        assert free_bytes < 4 * GB
        return
    config = scale.config
    kv_tokens = model.kv_tokens_for(scale, free_bytes)
    used = model.base_bytes(config, 2) + kv_tokens * model.kv_bytes(config, 2)
    used += scale.largest_batch * model.adapter_bytes(config, scale.rank, 2)
    assert used <= free_bytes
    assert kv_tokens >= scale.largest_batch * scale.reserved_tokens
    assert scale.room_bytes & (scale.room_bytes - 1) == 0, (
        "torch rounds pinned memory up to a power of two"
    )


@pytest.mark.parametrize("free_gb", [149, 84, 47, 24, 15.5, 8, 5.5])
def test_the_engine_divides_a_card_so_that_a_plan_has_the_adapters_it_asks_for(
    free_gb: float,
) -> None:
    free_bytes = int(free_gb * GB)
    scale = scale_of(free_bytes=free_bytes)
    device = Accelerator(HostDevice(free_bytes), REFERENCES)
    size = model.adapter_bytes(scale.config, scale.rank, 2)
    paging_tokens = 2 * scale.paged_slots * (2 * scale.context // 8 + 32)
    for slots, kv_tokens in (
        (scale.largest_batch, model.kv_tokens_for(scale, free_bytes)),
        (scale.paged_slots, paging_tokens),
    ):
        config = EngineConfig(
            Path(),
            kv_tokens=kv_tokens,
            max_adapters=slots,
            prompt_step_tokens=8192 if free_gb > 43 else 2048,
            max_running=256,
        )
        assert (
            device.divide(scale.config, Choice(torch.bfloat16, ""), config).adapter_bytes
            >= slots * size
        )


def test_a_card_without_room_for_any_base_is_told_so() -> None:
    with pytest.raises(ValueError, match=r"no base of auto fits: 1\.0 GB"):
        scale_of(free_bytes=GB)


# --- the world ---


def test_a_random_base_has_every_tensor_and_gives_the_same_one_again() -> None:
    weights = random_weights("tiny", torch.float32, CPU)
    for name, shape in expected_tensors(weights.config):
        assert weights.read(name).shape == shape
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(weights.read(name), weights.read(name))
    assert not torch.equal(weights.read(name), weights.read("model.layers.0.mlp.down_proj.weight"))


def test_adapters_that_share_their_room_differ_in_every_number_that_is_applied() -> None:
    adapters = Adapters(SHAPES["tiny"], 4, torch.float32, 40, 1 << 20, CPU)
    first = adapters.packed(7)
    second = adapters.packed(8)
    for placed in (each for each in adapters.layout.parts if each.rank):
        for view in (shrink_view, dense_expand):
            one, other = (
                view(adapters.layout, placed, each.blob[None]) for each in (first, second)
            )
            assert one.isfinite().all()
            assert (one != other).float().mean() > 0.99
    assert adapters.packed(39).blob.numel() == adapters.size_bytes
    assert len(adapters.room) < 40 * adapters.size_bytes


# --- stages and what becomes of them ---


def make_stage(name: str, code: str, budget_s: float = 20.0) -> Stage:
    return Stage(name, budget_s, (sys.executable, "-c", code))


def test_a_stage_that_fails_keeps_what_it_had_told_and_says_why(tmp_path: Path) -> None:
    told: list[Any] = []
    run = Run(60.0, tmp_path)
    outcome = run.stage(
        make_stage(
            "bad",
            'print(\'{"figure": "x", "measured": 1, "detail": {}}\', flush=True); import os; raise'
            ' SystemError(f"{os.getcwd()}/bad luck")',
        ),
        told.append,
    )
    assert told == [{"figure": "x", "measured": 1, "detail": {}}]
    assert (outcome.status, outcome.stage) == ("failed", "bad")
    assert "SystemError: bad luck" in outcome.error, "where the machine keeps its files stays there"
    assert run.stage(make_stage("good", "print('3 passed')"), told.append) == Outcome(
        "good", "ok", pytest.approx(0, abs=20), "3 passed"
    )


def test_half_a_line_and_a_line_of_somebody_else_s_are_no_findings(tmp_path: Path) -> None:
    """A stage is killed in the middle of a line; a test prints what looks like JSON, a library what
    is none.
    """
    code = """import os, signal, sys
sys.stdout.write('{"fact": "one", "value": 1}\\n{"compiled": []}\\n')
sys.stdout.write('{not JSON}\\n{"figure": "x", "measured"')
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)"""
    told: list[Any] = []
    run = Run(60.0, tmp_path)
    outcome = run.stage(make_stage("torn", code), told.append)
    assert told == [{"fact": "one", "value": 1}]
    assert (outcome.status, outcome.error.partition(".")[0]) == (
        "failed",
        "ended with signal SIGKILL",
    )
    assert run.log_of("torn") == '{"compiled": []}\n{not JSON}\n{"figure": "x", "measured"'
    assert (
        run.stage(
            make_stage("good", "import sys; sys.stdout.buffer.write(b'\\xff 3 passed')"),
            told.append,
        ).status
        == "ok"
    )


def test_a_stage_that_hangs_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    code = (
        'import os, time\nos.write(1, b\'{"fact": "pid", "value": %d}\\n\' % (os.fork() or'
        " os.getpid()))\ntime.sleep(600)"
    )
    told: list[Any] = []
    run = Run(
        60.0, tmp_path, clock=lambda: 100.0 if len(told) == 2 else 0.0
    )  # its time is over once both processes are there
    outcome = run.stage(make_stage("slow", code), told.append)
    assert outcome.status == "too slow"
    for line in told:
        with suppress(ProcessLookupError):  # gone already
            assert select([os.pidfd_open(line["value"])], [], [], 5.0)[0], (
                "a process outlives its stage"
            )


def test_a_stage_is_left_out_when_the_time_is_over(tmp_path: Path) -> None:
    outcome = Run(2.0, tmp_path).stage(make_stage("late", "print()"), print)
    assert (outcome.status, outcome.seconds) == ("left out", 0.0)


def board_of(measured: dict[str, float]) -> Board:
    board = Board(
        "card",
        machine={"device": "Card", "torch": "2.11.0"},
        scale={"shape": "tiny", "context": 64, "rank": 4},
    )
    board.take(stage.line_of(Fact("limits", vars(H200))))
    board.expect(model.expectations(H200, scale_of(), FREE))
    for row, value in measured.items():
        board.take(stage.line_of(Figure(row, value, {"rounds": [value]})))
    return board


def test_a_row_is_held_against_its_goal_from_the_right_side() -> None:
    board = board_of({"cold": 6.0, "seats": 1.1, "unused": 0.98, "base-16": 1.0})
    verdicts = {each.row: board.verdict(each) for each in board.expectations}
    assert {row: verdicts[row] for row in ("cold", "seats", "unused", "base-16", "zipf")} == {
        "cold": MISSED,
        "seats": REACHED,
        "unused": MISSED,
        "base-16": OPEN,
        "zipf": OPEN,
    }


def test_the_exit_status_tells_failed_from_missed_from_reached() -> None:
    rows = {each.row: each for each in model.expectations(H200, scale_of(), FREE)}
    board = board_of({row: each.limit for row, each in rows.items()})
    assert board.status() == 0
    board.take(stage.line_of(Figure("seats", 1.5)))
    assert board.status() == 3
    board.take(stage.line_of(Trouble("extra", "RuntimeError: no")))
    assert board.status() == 1
    assert board_of({}).status() == 1


def test_nothing_may_be_expected_after_it_was_measured() -> None:
    board = board_of({"cold": 1.0})
    with pytest.raises(AssertionError, match="measured before"):
        board.expect(board.expectations)


def test_the_report_has_a_line_for_every_row_and_for_what_failed(tmp_path: Path) -> None:
    board = board_of({"base-1": 240.0, "distinct-1": 0.99})
    board.take(stage.line_of(Trouble("prefill", "OutOfMemoryError: 3 GB")))
    board.take(
        {
            "fact": "profile-bare",
            "value": {
                "step_ms_without_profiler": 4.0,
                "device_ms": 3.5,
                "lines": [{"us": 3.0, "share": 0.5, "calls": 2, "name": "k"}],
            },
        }
    )
    board.outcomes.append(Outcome("decode", "failed", 3.0, "a | b\nc"))
    paths = board.write(tmp_path)
    kept = json.loads(paths[0].read_text())
    text = paths[1].read_text()
    drawn = paths[2].read_text()
    assert [row["row"] for row in kept["rows"]] == [each.row for each in board.expectations]
    assert "240 tokens/s | 84.5%" in text
    assert "prefill: OutOfMemoryError: 3 GB" in text
    assert "a / b c" in text
    assert "One decode step, bare" in text
    assert drawn.startswith("<svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gpu-card.json",
        "gpu-card.md",
        "gpu-card.svg",
    ]


def test_a_memory_check_that_could_not_look_is_left_out_with_a_reason() -> None:
    log = (
        "========= COMPUTE-SANITIZER\n========= Error: Device not supported. Please refer to the"
        " manual\n" + "Traceback\n" * 40
    )
    assert "Device not supported" in (
        says_nothing(Outcome("memcheck", "failed", 9.0, "ended with status 1"), log) or ""
    )
    assert "not over within 60 s" in (says_nothing(Outcome("memcheck", "too slow", 60.0), "") or "")
    found = "========= Invalid __global__ read of size 4 bytes"
    for outcome in (
        Outcome("memcheck", "failed", 9.0),
        Outcome("memcheck", "too slow", 60.0),
        Outcome("memcheck", "ok", 9.0),
    ):
        assert says_nothing(outcome, found) is None


def test_what_triton_compiles_is_kept_for_the_next_stage_even_without_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home, expected in (
        (tmp_path / "home", None),
        (Path(os.devnull) / "home", str(tmp_path / "triton")),
    ):
        monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
        monkeypatch.setenv("TRITON_HOME", str(home))
        keep_compiled(tmp_path)
        assert os.environ.get("TRITON_CACHE_DIR") == expected
    monkeypatch.setenv("TRITON_CACHE_DIR", "elsewhere")
    keep_compiled(tmp_path)
    assert os.environ["TRITON_CACHE_DIR"] == "elsewhere"


# --- the whole of it, on the CPU ---


@pytest.mark.slow
@pytest.mark.timeout(400)  # it shares two processors with a whole network
def test_every_row_is_measured_over_a_tiny_base() -> None:
    board = Board("tiny", machine={"device": "CPU"})
    options = {
        "kernels": "native",
        "dtype": "float32",
        "shape": "tiny",
        "free_bytes": 4 << 20,
        "host_bytes": GB,
        "answers": 4,
    }
    scale = model.plan("tiny", 4, 4 << 20, GB)
    stage.run("limits", options, lambda found: board.take(stage.line_of(found)))
    board.expect(model.expectations(Limits(**board.limits), scale, 4 << 20))
    for name in ("agreement", "decode", "narrow", "paging", "seats", "resident"):
        stage.run(name, options, lambda found: board.take(stage.line_of(found)))
    # A step of the native executor has no operation of torch's, which are what is profiled.
    stage.run(
        "profile",
        {**options, "kernels": "torch"},
        lambda found: board.take(stage.line_of(found)),
    )
    assert board.troubles == {}
    assert {each.row for each in board.expectations} <= set(board.figures)
    assert board.figures["agree-served"]["with_another_adapter"] == [4, 4]
    assert board.figures["resident"]["measured"] >= 0.9 * next(
        each.limit for each in board.expectations if each.row == "resident"
    )
    assert board.facts["profile-distinct"]["lines"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_rows_are_measured_on_a_device_whose_copies_end_later() -> None:
    board = Board("host", machine={"device": "host memory"})
    scale = model.plan("tiny", 4, 8 << 20, GB)
    world = World(
        "cuda", torch.float32, scale, 8 << 20, Accelerator(HostDevice(64 << 20), REFERENCES)
    )
    for measure in (decode, paging, seats):
        measure(world, Rows(lambda found: board.take(stage.line_of(found))))
    assert board.troubles == {}
    assert {
        "base-1",
        "distinct-8",
        "zipf",
        "unused",
        "prefill-distinct",
        "cold",
        "paging-throughput",
        "paging-gap-p99",
        "seats",
    } <= set(board.figures)
    assert board.facts["kernels"] == "cuda, host memory"


BLOCKED = """
import importlib.machinery, runpy, sys
class Bare(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in {"msgspec", "llguidance", "gguf"}:
            return None
        return super().find_spec(name, path, target)
real = importlib.machinery.PathFinder
sys.meta_path[:] = [Bare if finder is real else finder for finder in sys.meta_path]
sys.argv = ["stage", *sys.argv[1:]]
runpy.run_module("benchmarks.engine.gpu.stage", run_name="__main__")
"""


def test_a_machine_without_msgspec_llguidance_and_gguf_measures_too() -> None:
    options = json.dumps(
        {
            "kernels": "torch",
            "dtype": "float32",
            "shape": "tiny",
            "free_bytes": 4 << 20,
            "host_bytes": GB,
        }
    )
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "seats", options],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0] == {"fact": "stood_in", "value": ["msgspec", "llguidance", "gguf"]}
    assert lines[-1]["figure"] == "seats"


def test_without_a_gpu_the_script_says_what_is_missing(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        ["scripts/gpu", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.returncode == 2
    assert "nothing can run here" in done.stderr
    assert not list(tmp_path.iterdir())

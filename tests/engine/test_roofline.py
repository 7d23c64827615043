"""The machine's limits: how they combine, that they can be measured, and that `info` tells them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.roofline import Roofline, measure_roofline
from tests.processes import ending

from .worlds import make_base

LIMITS = Roofline(2, 10e9, {"float32": 100e9, "bfloat16": 1000e9, "int8": 2000e9})


@pytest.mark.parametrize(
    ("read", "operations", "seconds", "bound"),
    [(10e9, 1e9, 1.0, "memory"), (1e9, 1000e9, 1.0, "compute")],
)
def test_work_takes_as_long_as_the_tighter_limit_says(read, operations, seconds, bound):
    assert LIMITS.seconds("bfloat16", read, operations) == pytest.approx(seconds)
    assert LIMITS.bound("bfloat16", read, operations) == bound


def test_of_two_measurements_the_higher_figure_counts():
    other = Roofline(2, 5e9, {"float32": 200e9, "bfloat16": 10e9, "int8": 10e9})
    assert LIMITS.best(other) == Roofline(
        2, 10e9, {"float32": 200e9, "bfloat16": 1000e9, "int8": 2000e9}
    )


def test_the_limits_are_measured_for_every_dtype():
    measured = measure_roofline(1)
    assert set(measured.operations_s) == {"float32", "bfloat16", "int8"}
    assert measured.read_bytes_s > 1e8
    assert min(measured.operations_s.values()) > 1e8


def test_info_says_what_was_chosen_and_why_and_what_the_machine_can_do_at_most(tmp_path):
    make_base(tmp_path)
    command = [
        sys.executable,
        "-m",
        "engine",
        "info",
        "--base",
        str(tmp_path),
        "--threads",
        "1",
        "--kernels",
        "torch",
        "--dtype",
        "float32",
    ]
    environment = {
        **os.environ,
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    }  # what holds the engine back must not hold the measurement back
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert lines["kernels"] == "torch: asked for"
    assert lines["dtype"] == "float32: asked for"
    assert all(name in lines["roofline"] for name in ("GB/s", "float32", "bfloat16", "int8"))
    assert "tokens/s at batch 32" in lines["limit"]


def test_a_process_whose_torch_was_told_to_pin_threads_still_gives_the_executor_all_cores(tmp_path):
    make_base(tmp_path)
    ours, theirs = socket.socketpair()
    command = [
        sys.executable,
        "-m",
        "engine",
        "serve",
        "--fd",
        str(theirs.fileno()),
        "--base",
        str(tmp_path),
        "--dtype",
        "float32",
        "--kernels",
        "torch",
    ]
    with (
        ours,
        ending(
            subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_PROC_BIND": "true", "OMP_NUM_THREADS": "2"},
            )
        ) as process,
    ):
        theirs.close()
        ours.settimeout(60)
        assert ours.recv(4)
        assert os.sched_getaffinity(process.pid) == os.sched_getaffinity(0)
        ours.close()
        process.wait(60)

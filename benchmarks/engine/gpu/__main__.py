"""Correctness and speed of the engine on a GPU in one go of under nine minutes: scripts/gpu [--name
NAME] [--minutes 9] [--out FOLDER]

    look        the machine: device, free memory, versions; the largest base that fits is chosen by
                it
    agreement   answers of the device replayed on the CPU and the other way round (agreement.py)
    kernels     each kernel against its plain torch reference on the device, where pytest is
                installed
    tests       the other tests that run on a device, one of them after the other, since each engine
                takes all memory
    limits      copy bandwidth, GEMM rate, host-to-device rate; from these the roofline of every row
                (model.py) is written down
    decode, narrow, paging, resident, seats, profile     the rows (rows.py)
    memcheck    compute-sanitizer over small shapes, where it is installed

Everything is random and made on the machine: nothing is downloaded, nothing installed. After each
figure benchmarks/results/gpu-NAME.json, .md and .svg are written anew. Ends with 0 when everything
ran and reached its goal, 3 when everything ran and a goal was missed, 1 when something failed or
was left out, 2 when nothing can run here.

For a look at it without a GPU: scripts/gpu --kernels native --shape tiny
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.engine.gpu import bare
from benchmarks.engine.gpu.board import Board, Outcome
from benchmarks.engine.gpu.model import SHAPES, Limits, expectations, plan
from benchmarks.engine.gpu.run import Run, Stage

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results"
BUDGETS_S = {
    "look": 40.0,
    "agreement": 80.0,
    "kernels": 80.0,
    "tests": 80.0,
    "limits": 25.0,
    "decode": 140.0,
    "narrow": 60.0,
    "paging": 80.0,
    "resident": 60.0,
    "seats": 40.0,
    "profile": 40.0,
    "memcheck": 60.0,
}
"""In the order in which they run: what is left over at the end is taken from the last ones. The
first four compile what the others run, half a second to a second for each of some 150 kernels, of
which the stage `kernels` compiles two thirds, eight at a time. On an H200 with 16 cores they took
5, 39, 32, 23, 5, 53, 60, 14, 21, 16 and 10 s, before there was `narrow`.
"""
SPARE_S = 10.0
KERNEL_TESTS = ROOT / "tests" / "engine" / "gpu" / "test_kernels.py"
OTHER_TESTS = {KERNEL_TESTS, KERNEL_TESTS.with_name("test_bench.py")}
"""What the stage `tests` does not run: they had a stage of their own, or need no device."""
PYTEST_SETTINGS = Path(__file__).with_name("gpu_pytest.ini")
MAX_LOG_CHARACTERS = 200_000


def main() -> None:
    """Run the stages; the exit status tells how it went."""
    asked = _arguments()
    absent = bare.missing(bare.NEEDED)
    if absent:
        sys.exit(_nothing(f"{sys.executable} lacks {', '.join(absent)}"))
    reason = _cannot_run(asked.kernels)
    if reason:
        sys.exit(_nothing(reason))
    with tempfile.TemporaryDirectory() as logs:
        if asked.kernels == "cuda":
            keep_compiled(Path(logs))
        board = Gpu(asked, Path(logs)).run()
    print(f"\n{board.as_markdown()}")
    sys.exit(board.status())


class Gpu:
    """One run: the stages that were asked for, in order, and the board that they fill."""

    def __init__(self, asked: argparse.Namespace, logs: Path) -> None:
        self._asked = asked
        self._run = Run(60.0 * asked.minutes - SPARE_S, logs)
        self._options: dict[str, Any] = {"kernels": asked.kernels, "shape": asked.shape}
        self.board = Board(asked.name or "unnamed")

    def run(self) -> Board:
        """All stages; the files are there after each of them."""
        self._stage("look", self._command("look"))
        if not self.board.machine:
            return self._end()
        self._name()
        self._plan()
        for name in [name for name in BUDGETS_S if name != "look" and name in self._asked.stages]:
            match name:
                case "kernels":
                    self._tests(
                        name,
                        [KERNEL_TESTS],
                        "-k",
                        "not compiles",
                        *(("-n", "8") if _has("xdist") else ()),
                    )
                case "tests":
                    self._tests(
                        name,
                        sorted({*KERNEL_TESTS.parent.glob("test_*.py")} - OTHER_TESTS),
                        "-k",
                        "not references",
                    )
                case "memcheck":
                    self._memcheck()
                case "limits":
                    self._stage(name, self._command(name))
                    self._expect()
                case _:
                    self._stage(name, self._command(name))
            self._write()
        return self._end()

    def _plan(self) -> None:
        """What fits, from what was free when nothing was loaded."""
        machine = self.board.machine
        self._options |= {name: machine[name] for name in ("free_bytes", "host_bytes")} | {
            "dtype": self._asked.dtype or machine["dtype"]
        }
        machine["dtype"] = self._options["dtype"]
        itemsize = {"float32": 4}.get(self._options["dtype"], 2)
        try:
            scale = plan(self._asked.shape, itemsize, machine["free_bytes"], machine["host_bytes"])
        except ValueError as error:
            self.board.outcomes.append(Outcome("plan", "failed", 0.0, str(error)))
            return
        self.board.scale = asdict(scale)
        self._scale = scale

    def _name(self) -> None:
        """Without a name of its own, the run is called after the device."""
        self.board.name = self._asked.name or "-".join(
            self.board.machine["device"].lower().replace("(r)", "").split()
        )

    def _expect(self) -> None:
        if self.board.scale and self.board.limits:
            limits = Limits(**self.board.limits)
            self.board.expect(expectations(limits, self._scale, self.board.machine["free_bytes"]))

    def _tests(self, name: str, files: list[Path], *more: str) -> None:
        """Test files by pytest on the device, with a configuration of its own: the repository's
        asks for plugins.
        """
        if self._asked.kernels != "cuda":
            self._leave_out(name, "there is no GPU; scripts/test runs them without one")
            return
        if not _has("pytest"):
            self._leave_out(name, "pytest is not installed")
            return
        settings = (
            "-p",
            "benchmarks.engine.gpu.bare",
            "-c",
            str(PYTEST_SETTINGS),
            "--rootdir",
            str(ROOT),
            "-q",
        )
        self._stage(name, (sys.executable, "-m", "pytest", *settings, *more, *map(str, files)))

    def _memcheck(self) -> None:
        """A small base under compute-sanitizer, where it is installed and can watch this device."""
        tool = shutil.which("compute-sanitizer") or _beside_cuda()
        if tool is None or self._asked.kernels != "cuda":
            self._leave_out(
                "memcheck",
                (
                    "compute-sanitizer is not installed"
                    if tool is None
                    else "there is no GPU to check"
                ),
            )
            return
        command = (tool, "--tool", "memcheck", "--error-exitcode", "9", *self._command("memcheck"))
        self._stage("memcheck", command, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        why = says_nothing(self.board.outcomes[-1], self._run.log_of("memcheck"))
        if why:
            self.board.outcomes.pop()
            self._leave_out("memcheck", why)

    def _leave_out(self, stage: str, why: str) -> None:
        self.board.facts.setdefault("left_out", {})[stage] = why
        print(f"gpu: {stage}: left out: {why}", flush=True)

    def _command(self, stage: str) -> tuple[str, ...]:
        return (
            sys.executable,
            "-m",
            "benchmarks.engine.gpu.stage",
            stage,
            json.dumps(self._options),
        )

    def _stage(self, name: str, command: tuple[str, ...], **environment: str) -> None:
        print(f"gpu: {name} … ({self._run.left_s:.0f} s left)", flush=True)
        outcome = self._run.stage(
            Stage(name, BUDGETS_S[name], command, tuple(environment.items())), self._take
        )
        if self._asked.log is not None:
            with self._asked.log.open("a", encoding="utf-8") as kept:
                kept.write(
                    f"==== {name}:"
                    f" {outcome.status}\n{self._run.log_of(name)[-MAX_LOG_CHARACTERS:]}\n"
                )
        self.board.outcomes.append(outcome)
        print(
            f"gpu: {name}: {outcome.status} after {outcome.seconds:.0f} s"
            + (f": {outcome.error}" if outcome.error else ""),
            flush=True,
        )

    def _take(self, line: Mapping[str, Any]) -> None:
        sentence = self.board.take(line)
        if sentence:
            print(f"gpu:   {sentence}", flush=True)
            self._write()  # the machine may be taken away at any time

    def _write(self) -> None:
        self.board.write(self._asked.out)

    def _end(self) -> Board:
        self._write()
        return self.board


def says_nothing(outcome: Outcome, log: str) -> str | None:
    """Why a run of compute-sanitizer says nothing about our kernels; None when it does."""
    refusal = next((line.strip("= ") for line in log.splitlines() if "not supported" in line), None)
    if outcome.status == "failed" and refusal:
        return f"compute-sanitizer cannot watch this device: {refusal}"
    if outcome.status == "too slow" and "Invalid __" not in log:
        return (
            f"not over within {outcome.seconds:.0f} s; until then compute-sanitizer had found"
            " nothing"
        )
    return None


def keep_compiled(spare: Path) -> None:
    """See to it that what Triton compiles in one stage is there in the next; in `spare` where the
    home cannot be written.
    """
    if "TRITON_CACHE_DIR" in os.environ:
        return
    folder = Path(os.environ.get("TRITON_HOME") or os.path.expanduser("~")) / ".triton" / "cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        os.environ["TRITON_CACHE_DIR"] = str(spare / "triton")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu",
        description=__doc__.partition("\n\n")[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--name", help="of the result files gpu-NAME.json, .md, .svg; the device's by default"
    )
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="after so many, everything is over"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument(
        "--log",
        type=Path,
        help="file to append what the stages print beside their figures, tracebacks among it",
    )
    parser.add_argument(
        "--kernels",
        default="cuda",
        choices=("cuda", "native", "torch"),
        help="the executor that is measured",
    )
    parser.add_argument(
        "--shape",
        default="auto",
        choices=("auto", *SHAPES),
        help="of the random base; auto: the largest that fits",
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="what the machine computes best in by default",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        default=list(BUDGETS_S),
        choices=list(BUDGETS_S),
        metavar="STAGE",
        help=", ".join(BUDGETS_S),
    )
    return parser.parse_args()


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _cannot_run(kernels: str) -> str | None:
    """Why nothing can be measured with this Python here; None when it can.

    Does not touch the device.
    """
    if kernels != "cuda":
        return None
    if bare.missing(("triton",)):
        return f"{sys.executable} lacks triton"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} of {sys.executable} was built without CUDA"
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} of {sys.executable} finds no NVIDIA GPU: is the driver"
            " there (nvidia-smi)?"
        )
    return None


def _nothing(reason: str) -> int:
    """Say why nothing can run; 2."""
    print(
        f"scripts/gpu: nothing can run here: {reason}.\nIt needs a Python (3.11 or later) with"
        " torch built for CUDA, triton, numpy and safetensors; PYTHON=/path/to/python chooses one."
        " Without a GPU: scripts/gpu --kernels native --shape tiny",
        file=sys.stderr,
    )
    return 2


def _beside_cuda() -> str | None:
    """compute-sanitizer where CUDA's own installation has it."""
    places = sorted(Path("/usr/local").glob("cuda*/bin/compute-sanitizer")) + sorted(
        Path("/usr/local").glob("cuda*/compute-sanitizer/compute-sanitizer")
    )
    return str(places[-1]) if places else None


if __name__ == "__main__":
    main()

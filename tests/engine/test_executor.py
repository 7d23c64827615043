"""The native executor against its torch twins: every operation, every dtype, every instruction set
that this processor has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import config
from engine.config import Stored, cpu_features
from engine.decoder import Decoder
from engine.errors import ModelError
from engine.executor import library, native
from engine.executor.step import find_best
from engine.lora.layout import PartWeights, pack
from engine.model.parts import norm_width, norms_of, parts_of
from engine.model.weights import Weights, open_weights

from .worlds import Bench, make_base, some_tokens

pytestmark = pytest.mark.skipif(
    not library.usable_sets(cpu_features()) or library.lacks_compiler(cpu_features()),
    reason="no compiler, or an old processor",
)

DTYPES = {
    "float32": (torch.float32, Stored.PLAIN),
    "bfloat16": (torch.bfloat16, Stored.PLAIN),
    "int8": (torch.bfloat16, Stored.INT8),
}
"""name → (dtype, form of the weights)"""

FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "wide": {"hidden_size": 138, "intermediate_size": 202, "num_key_value_heads": 3},
    "gemma2": {"num_hidden_layers": 2},
    "gemma3_text": {"num_hidden_layers": 2},
    "phi3": {
        "hidden_size": 96,
        "partial_rotary_factor": 0.75,
        "sliding_window": 40,
    },
}
"""`wide`: nothing is a multiple of 32, and an odd number of blocks."""


def adapted(config: object, seed: int, rank: int, dtype: torch.dtype, everything: bool) -> object:
    """An adapter that changes every part, or every other one; with gains and shifts, and norms,
    when `everything`.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    parts = {}
    for layer in range(config.layers):  # type: ignore[attr-defined]
        for number, part in enumerate(parts_of(config)):  # type: ignore[arg-type]
            if everything or number % 2:
                gain, shift = (
                    (1 + random(part.width_out), random(part.width_out))
                    if everything
                    else (None, None)
                )
                parts[layer, part.name] = PartWeights(
                    random(rank + number, part.width_in),
                    random(part.width_out, rank + number),
                    gain,
                    shift,
                )
    if everything:
        last = config.layers  # type: ignore[attr-defined]
        keys = [(0, name) for name in norms_of(config)] + [(last, "norm")]  # type: ignore[arg-type]
        parts |= {
            key: PartWeights(gain=1 + random(norm_width(config, key[1])))  # type: ignore[arg-type]
            for key in keys
        }
    return pack(config, parts, dtype)  # type: ignore[arg-type]


def make_family(folder: Path, name: str) -> Path:
    """A base of FAMILIES, or as `make_base` makes it, in a folder of its name."""
    make_base(folder / name, "llama" if name == "wide" else name, **FAMILIES.get(name, {}))
    return folder / name


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("base"), request.param)


def run_mixed(
    base: Path | Weights,
    dtype: torch.dtype,
    kernels: str,
    stored: Stored,
    threads: int = 1,
    accelerator: object = None,
) -> list[torch.Tensor]:
    """Logits of five sequences in one batch, two adapters and the bare base, then of one decode
    step each.
    """
    bench = Bench(base, dtype, kernels, threads, stored, accelerator)
    for name, rank, everything in ((b"all", 5, True), (b"some", 16, False)):
        bench.put(name, adapted(bench.config, rank, rank, dtype, everything=everything))  # type: ignore[arg-type]
    lengths = ((5, None), (40, b"all"), (131, b"some"), (1, b"all"), (70, None))
    sequences = [
        bench.sequence(some_tokens(length + 1, length), adapter) for length, adapter in lengths
    ]
    first = bench.forward(*((s, 0, len(s.tokens) - 1) for s in sequences))
    second = bench.forward(*((s, len(s.tokens) - 1, len(s.tokens)) for s in sequences))
    return [torch.cat([first[id(s)], second[id(s)]]) for s in sequences]


def error(ours: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The mean difference as a share of the mean logit."""
    ours_flat = torch.cat(ours)
    exact_flat = torch.cat(exact)
    return float((ours_flat - exact_flat).abs().mean() / exact_flat.abs().mean())


def assert_as_exact_as_its_twin(base: Path, name: str) -> None:
    """float32 is held to the float32 twin itself; the others may not be further from it than their
    own twins are (these models are chaotic).
    """
    dtype, stored = DTYPES[name]
    exact = run_mixed(base, torch.float32, "torch", Stored.PLAIN)
    ours = run_mixed(base, dtype, "native", stored)
    if name == "float32":
        assert error(ours, exact) < 1e-5
    else:
        assert error(ours, exact) < 1.2 * error(run_mixed(base, dtype, "torch", stored), exact)


@pytest.mark.parametrize("name", DTYPES)
def test_the_native_executor_is_as_exact_as_its_twin(base: Path, name: str) -> None:
    assert_as_exact_as_its_twin(base, name)


@pytest.mark.parametrize("name", DTYPES)
def test_the_number_of_threads_changes_no_bit(base: Path, name: str) -> None:
    dtype, stored = DTYPES[name]
    alone, shared = (run_mixed(base, dtype, "native", stored, threads) for threads in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize(
    "instructions", [each.name for each in library.usable_sets(cpu_features())]
)
def test_every_instruction_set_agrees(
    base: Path, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = next(each for each in library.INSTRUCTION_SETS if each.name == instructions)
    if library.find_compiler() is None:
        pytest.skip(
            "only the best instruction set is built here, and there is no compiler for the others"
        )
    monkeypatch.setattr(native, "usable_sets", lambda features: [chosen])
    for name in DTYPES:
        assert_as_exact_as_its_twin(base, name)


def test_a_step_names_the_lowest_id_of_the_highest_logit(base: Path) -> None:
    bench = Bench(base, kernels="native", threads=2)
    sequence = bench.sequence(some_tokens(40, 3))
    with torch.inference_mode():
        output = bench.decoder.run(bench.batch((sequence, 0, 40)).input, bench.cache.pool)
    best, finite = find_best(output.logits)
    assert output.best.tolist() == best.tolist()
    assert output.finite.tolist() == finite.tolist() == [True] * 40


def test_what_does_not_fit_runs_in_torch_and_says_why(tmp_path: Path) -> None:
    make_base(tmp_path / "odd", head_dim=12)
    weights = open_weights(tmp_path / "odd")
    assert Decoder(weights, torch.float32, 64, "auto").name.startswith("torch")
    with pytest.raises(ModelError, match="head_dim 12"):
        Decoder(weights, torch.float32, 64, "native")


def test_without_a_compiler_torch_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base(tmp_path / "base")
    monkeypatch.setattr(library, "find_compiler", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Decoder(open_weights(tmp_path / "base"), torch.float32, 64, "auto").name.startswith(
        "torch "
    )
    assert library.lacks_compiler(cpu_features())


@pytest.mark.parametrize("edited", ["executor.cpp", "words.hpp", "draw.hpp"])
def test_what_was_built_serves_when_the_compiler_is_gone_but_not_of_another_source(
    edited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = library.usable_sets(cpu_features())[0]
    built = library.library_path(chosen)
    monkeypatch.setattr(library, "find_compiler", lambda: None)
    assert library.library_path(chosen).name.rpartition("-")[0] == built.name.rpartition("-")[0]
    assert not library.lacks_compiler(cpu_features())
    for source in library.SOURCE.parent.glob("*.[ch]pp"):
        shutil.copy(source, tmp_path)
    monkeypatch.setattr(library, "SOURCE", tmp_path / "executor.cpp")
    assert library.library_path(chosen).name.rpartition("-")[0] == built.name.rpartition("-")[0]
    with (tmp_path / edited).open("a") as file:
        file.write("// edited\n")
    with pytest.raises(library.NotNative, match=r"there is no C\+\+ compiler; .*scripts/setup"):
        library.library_path(chosen)


@pytest.mark.parametrize(("granted", "best"), [(True, "amx"), (False, "avx512_bf16")])
def test_tile_registers_that_the_kernel_keeps_are_no_feature(
    granted: bool, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "_cpu_flags", lambda: library.INSTRUCTION_SETS[0].needs)
    monkeypatch.setattr(config, "_grants_tiles", lambda: granted)
    assert library.usable_sets(cpu_features())[0].name == best


def test_a_broken_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(library.NotNative, match="no space left"):
        library.library_path(library.usable_sets(cpu_features())[0])


SANITIZED = """
import sys, torch
from pathlib import Path
from engine.executor import library, native
real = native.open_library
flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
native.open_library = lambda chosen: real(chosen, flags)
from tests.engine.test_executor import DTYPES, run_mixed
for base in map(Path, sys.argv[1:]):
    for dtype, stored in DTYPES.values():
        run_mixed(base, dtype, "native", stored, 2)
    print("clean:", base.name, flush=True)
"""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["wide", "gpt_oss"], id="odd widths and experts"),
        pytest.param(
            [*FAMILIES, "qwen2_moe", "gpt_oss"], id="every family", marks=pytest.mark.slow
        ),
    ],
)
def test_the_executor_is_clean_under_the_address_and_undefined_behaviour_sanitizers(
    tmp_path: Path, names: list[str]
) -> None:
    compiler = library.find_compiler()
    if compiler is None:
        pytest.skip("no compiler")
    found = subprocess.run(
        [*compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"{compiler[0]} brings no address sanitizer")
    runtime = subprocess.run(
        [*compiler, "-print-file-name=libstdc++.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{found} {runtime}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "1",
    }
    bases = [str(make_family(tmp_path, name)) for name in names]
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, *bases],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    clean = [line for line in done.stdout.splitlines() if line.startswith("clean: ")]
    assert clean == [f"clean: {name}" for name in names]

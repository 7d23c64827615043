"""Compiles every kernel of engine/cuda ahead of time, with the arguments that its public function
gives it, and prints what came out as JSON.

A program of its own, because Triton's interpreter (tests/engine/conftest.py) can only be on or off
in a whole process. Needs no GPU: the wheel of Triton brings the assembler.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from engine.cuda import attention, elementwise, lora, matvec, narrow, sampling
from engine.executor.draw import Draw
from engine.model.attention import Scoring
from engine.model.families import GELU_TANH, SILU
from engine.model.quantised import Quantised
from engine.noise import NoiseKey

TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.int8: "i8",
    torch.uint8: "u8",
}
ALIGNED = 16


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments of one launch."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """What the assembler says of one kernel."""

    name: str
    shape: str
    arch: int
    registers: int
    spilled_bytes: int
    shared_bytes: int


def record(modules: list[ModuleType], call: Callable[[], object]) -> list[Launch]:
    """What `call` launches, without running any of it."""
    launches: list[Launch] = []
    originals = [
        (module, name, value)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, JITFunction)
    ]
    for module, name, kernel in originals:
        setattr(module, name, _Recorder(kernel, launches))
    try:
        call()
    finally:
        for module, name, kernel in originals:
            setattr(module, name, kernel)
    return launches


class _Recorder:
    def __init__(self, kernel: JITFunction, launches: list[Launch]) -> None:
        self._kernel = kernel
        self._launches = launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*values: Any, **named: Any) -> None:
            names = self._kernel.arg_names
            options = {name: value for name, value in named.items() if name not in names}
            arguments = dict(zip(names, values, strict=False)) | {
                name: value for name, value in named.items() if name in names
            }
            self._launches.append(Launch(self._kernel, arguments, options))

        return launch


def compile_launch(launch: Launch, arch: int) -> Any:
    """Triton's compiled kernel for compute capability `arch` (90: 9.0), specialised as Triton's own
    launcher would.
    """
    kernel = launch.kernel
    signature = {}
    constants = {}
    attributes = {}
    for index, parameter in enumerate(kernel.params):
        value = launch.arguments[parameter.name]
        signature[parameter.name] = kind = _kind(
            value, parameter.is_constexpr, parameter.do_not_specialize
        )
        if kind == "constexpr":
            constants[parameter.name] = value
        elif not parameter.do_not_specialize and _is_aligned(value):
            attributes[(index,)] = [["tt.divisibility", ALIGNED]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=launch.options)


def _kind(value: Any, is_constant: bool, plain: bool) -> str:
    if is_constant or value is None or (isinstance(value, int) and value == 1 and not plain):
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _is_aligned(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.data_ptr() % ALIGNED == 0
    return isinstance(value, int) and value % ALIGNED == 0


def measure(compiled: Any, name: str, shape: str, arch: int) -> Compiled:
    """Registers and spills out of the machine code itself."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run(
            [tool, "-res-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
    numbers = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", usage)}
    return Compiled(
        name,
        shape,
        arch,
        numbers["REG"],
        spilled_bytes=numbers["STACK"] + numbers["LOCAL"],
        shared_bytes=compiled.metadata.shared,
    )


Call = tuple[str, Callable[[], object]]


def attention_calls(
    dtype: torch.dtype,
    head_dim: int,
    counts: tuple[int, ...] = (1, 48, 512),
    scoring: Scoring | None = None,
) -> Iterator[Call]:
    """What depends on the heads' width, with 32 heads over 8; decoding for these numbers of
    runs.
    """
    heads = 32
    kv_heads = 8
    rows = 48
    page_tokens = 16
    qkv = _empty(rows, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    table = _empty(256, head_dim // 2)
    pool = _empty(2 * kv_heads, 64, page_tokens * head_dim, dtype=dtype)
    queries = qkv[:, : heads * head_dim]
    mixed = torch.empty_like(qkv)
    norms = elementwise.HeadNorms(_empty(head_dim), _empty(head_dim), 1e-6)
    entries = torch.zeros(64, 32 * 7 + 32 * 4 + 1, 5, dtype=torch.int64)
    gains = elementwise.HeadGains(_ints(rows), entries, 33)
    for each, angles, changes in ((None, table, None), (norms, None, None), (norms, table, gains)):
        yield (
            "rotate_and_store" if changes is None else "rotate_and_store, adapted",
            partial(
                elementwise.rotate_and_store,
                qkv,
                angles,
                angles,
                _ints(rows),
                _ints(rows),
                pool,
                heads,
                kv_heads,
                each,
                changes,
            ),
        )
    for runs in counts:
        scratch = _empty(attention.decode_scratch_numbers(runs, heads, kv_heads, head_dim))
        yield (
            f"attend_decode, {runs} runs",
            partial(
                attention.attend_decode,
                queries,
                pool,
                _ints(4, runs),
                _ints(9),
                mixed,
                scratch,
                page_tokens,
                scoring,
            ),
        )
    yield (
        "attend_prefill",
        partial(
            attention.attend_prefill,
            queries,
            pool,
            _ints(4, 8),
            _ints(9),
            _ints(2, 40),
            mixed,
            page_tokens,
            scoring,
        ),
    )


def other_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Everything else, at the shapes of an 8B model."""
    rows = 48
    hidden = 4096
    kv = 1024
    mlp = 14336
    vocab = 128256
    stream = _empty(rows, hidden)
    weight = _empty(hidden)
    normed = _empty(rows, hidden, dtype=dtype)
    yield "rms_norm", partial(elementwise.rms_norm, stream, weight, 1e-5, normed)
    yield "add_rms_norm", partial(elementwise.add_rms_norm, stream, normed, weight, 1e-5, normed)
    for activation in (SILU, GELU_TANH):
        yield (
            f"fold, {activation}",
            partial(
                elementwise.fold,
                _empty(rows, 2 * mlp, dtype=dtype),
                _empty(rows, mlp, dtype=dtype),
                activation,
            ),
        )
    for width_out, width_in in ((hidden + 2 * kv, hidden), (hidden, mlp), (577, 138)):
        weight = _empty(width_out, width_in, dtype=dtype)
        bias = _empty(width_out, dtype=dtype)
        for each, given in (("no bias", None), ("bias", bias)):
            yield (
                f"matvec, {each}",
                partial(
                    matvec.matvec,
                    _empty(1, width_in, dtype=dtype),
                    weight,
                    given,
                    _empty(1, width_out, dtype=dtype),
                ),
            )
    yield (
        "matvec, logits",
        partial(
            matvec.matvec, normed[:1], _empty(vocab, hidden, dtype=dtype), None, _empty(1, vocab)
        ),
    )
    gate_up = _empty(2 * mlp, hidden, dtype=dtype)
    bias = _empty(2 * mlp, dtype=dtype)
    yield (
        "matvec_fold",
        partial(matvec.matvec_fold, normed[:1], gate_up, bias, _empty(1, mlp, dtype=dtype), SILU),
    )
    entries = torch.zeros(64, 32 * 7, 5, dtype=torch.int64)
    for count, width_in, widths in (
        (rows, hidden, (hidden, kv, kv)),
        (1, hidden, (hidden,)),
        (rows, hidden, (mlp, mlp)),
        (rows, mlp, (hidden,)),
    ):
        scratch = _empty(lora.scratch_numbers(count, 64, width_in, len(widths)))
        x = _empty(count, width_in, dtype=dtype)
        out = _empty(count, sum(widths), dtype=dtype)
        bias = _empty(sum(widths), dtype=dtype) if len(widths) == 3 else None
        tiles = _ints(3, count)
        parts = len(widths)
        yield (
            f"shrink_site, {parts} parts",
            partial(lora.shrink_site, x, tiles, entries, 7, parts, scratch, 64),
        )
        yield (
            f"expand_site, {parts} parts",
            partial(lora.expand_site, out, tiles, entries, 7, width_in, widths, bias, scratch, 64),
        )
    logits = _empty(rows, vocab)
    chosen = torch.zeros(2, rows, dtype=torch.int64)
    keys = torch.empty(sampling.best_scratch_numbers(rows, vocab), dtype=torch.int64)
    yield "best_and_finite", partial(sampling.best_and_finite, logits, chosen[0], chosen[1], keys)
    plain = Draw(0, 7, 0.7, NoiseKey((1, 2), (3, 4)), token=5)
    for name, each in (
        ("plain", plain),
        ("changed", replace(plain, changed=np.zeros(1, np.int32), values=np.zeros(1))),
    ):
        yield f"draw, {name}", partial(sampling._draw_together, logits, [each])


def narrow_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Products with weights in 4 and 8 bits, at the shapes of an 8B model."""
    width_out = 4096
    width_in = 14336
    whole = narrow.Whole(torch.zeros(width_out, width_in, dtype=torch.int8), _empty(width_out))
    weights: list[tuple[str, narrow.Narrow]] = [("int8", whole)]
    for group in (32, 128):
        numbers = _empty(width_out, width_in // group, dtype=torch.float16)
        codes = torch.zeros(width_out, width_in // 2, dtype=torch.uint8)
        weights.append((f"q4 by {group}", Quantised(codes, numbers, numbers)))
    embedded = _empty(48, width_in)
    yield "look_up", partial(narrow.look_up, _ints(48), weights[-1][1], embedded)
    for name, weight in weights:
        for rows in (1, 64):
            multiply = narrow.narrow_matvec if rows == 1 else narrow.narrow_product
            x = _empty(rows, width_in, dtype=dtype)
            out = _empty(rows, width_out, dtype=dtype)
            yield f"{name}, {rows} rows", partial(multiply, x, weight, None, out)


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def _ints(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def main() -> None:
    """`compile_kernels.py ARCH…`: compile everything for these."""
    modules: list[ModuleType] = [attention, elementwise, lora, matvec, narrow, sampling]
    found: list[Compiled] = []
    shapes = {
        f"head_dim {head_dim}": attention_calls(torch.bfloat16, head_dim) for head_dim in (64, 128)
    } | {"8B": other_calls(torch.bfloat16)}
    capped = Scoring(0.06, 50.0)  # as in Gemma 2, which has heads of that width
    shapes["head_dim 256"] = attention_calls(torch.bfloat16, 256, (1,), capped)
    shapes["head_dim 128 float32"] = attention_calls(torch.float32, 128, (1,))
    shapes["8B narrow"] = narrow_calls(torch.bfloat16)
    shapes["8B float32"] = (
        each
        for each in other_calls(torch.float32)
        if each[0].startswith(("shrink_site, 3", "expand_site, 3", "matvec"))
    )
    for shape, calls in shapes.items():
        for name, call in calls:
            for launch in record(modules, call):
                for arch in map(int, sys.argv[1:]):
                    found.append(
                        measure(
                            compile_launch(launch, arch),
                            f"{name}: {launch.kernel.__name__}",
                            shape,
                            arch,
                        )
                    )
    kernels = {
        f"{module.__name__}.{name}"
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, JITFunction)
    }
    json.dump(
        {"kernels": sorted(kernels), "compiled": [asdict(each) for each in found]},
        sys.stdout,
        indent=1,
    )


if __name__ == "__main__":
    main()

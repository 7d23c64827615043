"""Products with weights in 4 and 8 bits against their plain torch references: on a GPU where there
is one, in Triton's interpreter otherwise (conftest.py).
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
import torch

from engine.config import Stored
from engine.cuda import narrow
from engine.cuda.accelerator import Accelerator
from engine.cuda.narrow import Narrow, Whole
from engine.model.quantised import Quantised
from engine.model.tensors import expected_tensors
from engine.model.weights import Weights
from tests.engine.worlds import Bench

from .test_executor import run_mixed
from .test_kernels import DEVICE, EACH_DTYPE, HAS_GPU, assert_near, random, rows
from .worlds import (
    LLAMA,
    NEEDS_INTERPRETER,
    PLACES,
    accelerator,
    random_adapter,
    random_weights,
)


def in_4_bits(width_out: int, width_in: int, group: int, seed: int = 0) -> Quantised:
    """Random codes whose weights have a standard deviation of about 1 / sqrt(width_in)."""
    generator = torch.Generator().manual_seed(seed + width_in)
    codes = torch.randint(
        0, 256, (width_out, width_in // 2), dtype=torch.uint8, generator=generator
    )
    shape = width_out, width_in // group
    scales = (0.15 + 0.1 * torch.rand(shape, generator=generator)) / width_in**0.5
    middle = 7 + 2 * torch.rand(shape, generator=generator)
    return Quantised(codes, scales.half(), (-middle * scales).half())


def make(kind: str, width_out: int, width_in: int) -> Narrow:
    if kind == "int8":
        return Whole.of(random(width_out, width_in) / width_in**0.5)
    return in_4_bits(width_out, width_in, int(kind.removeprefix("q4, ")))


def on_device(weight: Narrow) -> Narrow:
    if isinstance(weight, Whole):
        return Whole(weight.numbers.to(DEVICE), weight.scales.to(DEVICE))
    parts = (weight.codes, weight.scales, weight.offsets)
    return Quantised(*(part.to(DEVICE) for part in parts))


KINDS = pytest.mark.parametrize("kind", ["int8", "q4, 32", "q4, 64", "q4, 128"])


@EACH_DTYPE
@KINDS
@pytest.mark.parametrize(
    ("width_in", "width_out", "biased"),
    [(128, 3, True), (577, 5, False), (rows(4224, 2176), rows(75, 6), True)],
)
def test_a_row_times_a_narrow_weight_agrees_and_has_the_same_bits_again(
    dtype: torch.dtype, kind: str, width_in: int, width_out: int, biased: bool
) -> None:
    """Several pieces of a row, one that is not full, and several blocks; nothing beyond out's
    columns is written.
    """
    if width_in % 128 and kind != "int8":
        pytest.skip("weights in 4 bits are whole groups wide")
    weight = make(kind, width_out, width_in)
    bias = random(width_out, dtype=dtype) if biased else None
    x = random(1, width_in, dtype=dtype)
    expected = torch.empty(1, width_out, dtype=dtype)
    narrow.narrow_matvec_reference(x, weight, bias, expected)
    given, again = torch.full((2, 1, width_out + 3), float("nan"), dtype=dtype, device=DEVICE)
    for out in (given, again):
        narrow.narrow_matvec(
            x.to(DEVICE),
            on_device(weight),
            None if bias is None else bias.to(DEVICE),
            out[:, :width_out],
        )
    assert_near(given[:, :width_out], expected)
    assert torch.equal(given[:, :width_out], again[:, :width_out])
    assert given[:, width_out:].isnan().all()


@EACH_DTYPE
@KINDS
@pytest.mark.parametrize(
    ("num_rows", "width_in", "width_out", "biased"),
    [(2, 128, 5, False), (rows(150, 17), 384, 70, True)],
)
def test_rows_times_a_narrow_weight_agree_and_have_the_same_bits_again(
    dtype: torch.dtype, kind: str, num_rows: int, width_in: int, width_out: int, biased: bool
) -> None:
    """Tiles that are not full in either direction; out is a stretch of columns of a wider tensor,
    as a linear that is fused of several has it.
    """
    weight = make(kind, width_out, width_in)
    bias = random(width_out, dtype=dtype) if biased else None
    wide = random(num_rows, width_in + 3, dtype=dtype)
    for out_dtype in (dtype, torch.float32):
        expected = torch.empty(num_rows, width_out, dtype=out_dtype)
        narrow.narrow_product_reference(wide[:, :width_in], weight, bias, expected)
        given, again = torch.full(
            (2, num_rows, width_out + 3), float("nan"), dtype=out_dtype, device=DEVICE
        )
        for out in (given, again):
            narrow.narrow_product(
                wide.to(DEVICE)[:, :width_in],
                on_device(weight),
                None if bias is None else bias.to(DEVICE),
                out[:, :width_out],
            )
        assert_near(given[:, :width_out], expected, dtype)
        assert torch.equal(given[:, :width_out], again[:, :width_out])
        assert given[:, width_out:].isnan().all()


@pytest.mark.parametrize(("width", "group"), [(64, 32), (1152, 128)])
def test_rows_of_a_table_in_4_bits_are_looked_up(width: int, group: int) -> None:
    table = in_4_bits(7, width, group)
    tokens = torch.tensor([6, 0, 6, 3], dtype=torch.int32)
    wide = torch.full((4, width + 2), float("nan"), device=DEVICE)
    narrow.look_up(tokens.to(DEVICE), on_device(table), wide[:, :width])
    expected = torch.empty(4, width)
    narrow.look_up_reference(tokens, table, expected)
    assert_near(wide[:, :width], expected)
    assert wide[:, width:].isnan().all()


@pytest.mark.parametrize("kind", ["int8", "q4, 32"])
def test_a_row_s_bits_do_not_depend_on_the_rows_of_its_tile(kind: str) -> None:
    weight = on_device(make(kind, 40, 256))
    dtype = torch.bfloat16 if HAS_GPU else torch.float16
    x = random(16, 256, dtype=dtype).to(DEVICE)
    alone, among = (torch.empty(n, 40, dtype=dtype, device=DEVICE) for n in (2, 16))
    narrow.narrow_product(x[3:5], weight, None, alone)
    narrow.narrow_product(x, weight, None, among)
    assert torch.equal(alone, among[3:5])


def test_a_number_in_8_bits_is_off_by_at_most_half_a_step() -> None:
    weight = random(5, 64)
    weight[2] = 0
    off = (Whole.of(weight).dequantise() - weight).abs()
    assert (off <= weight.abs().amax(1, keepdim=True) / 127 / 2 * (1 + 1e-5)).all()


# --- whole models ---

SMALL = replace(LLAMA, hidden=64, intermediate=128, heads=4)
"""Widths that are whole groups of 32."""


def narrowed(weights: Weights, stored: Stored, but: str) -> tuple[Weights, Weights]:
    """A base as a device keeps it, and one whose weights are exactly what that stands for; in q4
    those whose names hold `but` are not in 4 bits, and lie in int8.
    """
    names = {name for name, shape in expected_tensors(weights.config) if len(shape) == 2}

    def read_quantised(name: str) -> Quantised | None:
        if name not in names or but in name:
            return None
        rows, columns = dict(expected_tensors(weights.config))[name]
        return in_4_bits(rows, columns, 32, seed=zlib.crc32(name.encode()))

    def read(name: str) -> torch.Tensor:
        codes = read_quantised(name) if stored is Stored.Q4 else None
        return weights.read(name) if codes is None else codes.dequantise()

    def meant(name: str) -> torch.Tensor:
        codes = read_quantised(name) if stored is Stored.Q4 else None
        if codes is None and name in names and name != "model.embed_tokens.weight":
            return Whole.of(weights.read(name)).dequantise()
        return read(name)

    kept = replace(weights, stored=read, stored_quantised=read_quantised)
    if stored is Stored.Q4 or not weights.config.tied_head:
        return kept, replace(weights, stored=meant)
    # in int8 a tied head is not what the embedding is
    untied = replace(weights.config, tied_head=False)
    head = Whole.of(weights.read("model.embed_tokens.weight")).dequantise()
    return kept, replace(
        weights,
        config=untied,
        stored=lambda name: head if name == "lm_head.weight" else meant(name),
    )


FORMS = pytest.mark.parametrize(("stored", "but"), [(Stored.INT8, ""), (Stored.Q4, "v_proj")])


def logits_of(
    weights: Weights, place: Accelerator | None, stored: Stored = Stored.PLAIN
) -> torch.Tensor:
    bench = Bench(weights, torch.float32, stored=stored, accelerator=place)
    bench.put(b"all", random_adapter(SMALL, 1, 5, torch.float32, everything=True))
    return run_mixed(bench, ((5, None), (40, b"all"), (1, None)))


@FORMS
@pytest.mark.parametrize("model", ["llama", "biased", "tied"])
@pytest.mark.parametrize("place", PLACES)
def test_a_base_in_narrow_weights_gives_the_logits_of_what_they_stand_for(
    place: str, model: str, stored: Stored, but: str
) -> None:
    """Adapters beside them, prompts and single rows, a linear whose parts lie in two forms."""
    config = {
        "llama": SMALL,
        "biased": replace(SMALL, qkv_bias=True, mlp_bias=True),
        "tied": replace(SMALL, tied_head=True),
    }[model]
    kept, meant = narrowed(random_weights(config), stored, but)
    found = logits_of(kept, accelerator(place), stored)
    expected = logits_of(meant, None)
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@NEEDS_INTERPRETER
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # padding rows hold anything
@FORMS
def test_the_kernels_themselves_make_those_logits(stored: Stored, but: str) -> None:
    config = replace(SMALL, layers=1, qkv_bias=True)
    kept, meant = narrowed(random_weights(config), stored, but)
    few = ((3, b"all"), (1, None))
    logits = []
    for weights, place, form in (
        (kept, accelerator("interpreter"), stored),
        (meant, None, Stored.PLAIN),
    ):
        bench = Bench(weights, torch.float32, stored=form, accelerator=place)
        bench.put(b"all", random_adapter(config, 1, 5, torch.float32, everything=True))
        logits.append(run_mixed(bench, few, 1))
    assert float((logits[0] - logits[1]).abs().max()) <= 1e-4 * float(logits[1].abs().max())

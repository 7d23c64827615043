"""Products with weights in 4 and 8 bits against their plain torch references: on a GPU where there
is one, in Triton's interpreter otherwise (conftest.py).
"""

from __future__ import annotations

import pytest
import torch

from engine.cuda import narrow
from engine.cuda.narrow import Narrow, Whole
from engine.model.quantised import Quantised

from .test_kernels import DEVICE, EACH_DTYPE, HAS_GPU, assert_near, random, rows


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
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("width_in", "width_out"), [(128, 3), (577, 5), (640, rows(75, 9)), (4224, rows(64, 6))]
)
def test_a_row_times_a_narrow_weight_agrees_and_has_the_same_bits_again(
    dtype: torch.dtype, kind: str, biased: bool, width_in: int, width_out: int
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
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("num_rows", "width_in", "width_out"),
    [(2, 128, 5), (17, 384, 70), (rows(150, 70), rows(640, 256), 33)],
)
def test_rows_times_a_narrow_weight_agree_and_have_the_same_bits_again(
    dtype: torch.dtype, kind: str, biased: bool, num_rows: int, width_in: int, width_out: int
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

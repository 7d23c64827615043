"""Weights in 4 bits, read as they lie, stand for the numbers that their format's own reference
makes of the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.errors import ModelError
from engine.model.quantised import (
    BLOCKS_AT_ONCE,
    Q4_K_BOUND,
    READERS,
    check_finite,
    from_blocks,
    stack,
)
from engine.model.weights import open_weights

from .test_bases import SHAPE, write_gguf
from .worlds import make_base

EXACT = ("Q4_0", "Q4_1")
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2)}
"""Where the float16 numbers of a block begin."""


def blocks_of(kind: str, rows: int, columns: int, seed: int) -> np.ndarray:
    """Random bytes as a tensor's blocks, [rows, bytes of a row], their float16 scales finite."""
    numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows * columns // numbers, size), dtype=np.uint8)
    for at in SCALES[kind]:
        # from subnormal ones to such as times 63 are just below float16's largest
        spread = 10.0 ** rng.uniform(-7, 3, (len(data), 1)) * rng.choice((-1, 1), (len(data), 1))
        data[:, at : at + 2] = spread.astype(np.float16).view(np.uint8)
    return data.reshape(rows, -1)


def meant_by(raw: np.ndarray, kind: str) -> np.ndarray:
    plain: np.ndarray = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    return plain


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=st.integers(1, 9), blocks=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_what_is_read_is_what_the_gguf_package_dequantises(
    kind: str, rows: int, blocks: int, seed: int
) -> None:
    columns = 256 * blocks
    raw = blocks_of(kind, rows, columns, seed)
    weight = check_finite("w", from_blocks(raw.reshape(-1), kind, (rows, columns)))
    assert weight.shape == (rows, columns)
    assert weight.group == 32
    plain = weight.dequantise().numpy()
    expected = meant_by(raw, kind)
    if kind in EXACT:
        assert np.array_equal(plain, expected)
    else:
        share, least = Q4_K_BOUND
        offset = np.repeat(weight.offsets.float().numpy(), 32, axis=1)
        within = share * (np.abs(expected - offset) + np.abs(offset)) * (1 + share) + 16 * least
        assert (np.abs(plain - expected) <= within).all()


@pytest.mark.parametrize("kind", READERS)
def test_a_tensor_of_many_blocks_is_read_to_its_last(kind: str) -> None:
    per_block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
    rows = BLOCKS_AT_ONCE * per_block // 256 + 3
    raw = blocks_of(kind, rows, 256, 1)
    plain = from_blocks(raw.reshape(-1), kind, (rows, 256)).dequantise().numpy()
    np.testing.assert_allclose(plain, meant_by(raw, kind), rtol=3e-3, atol=100)
    assert np.array_equal(
        plain[-3:], from_blocks(raw[-3:].reshape(-1), kind, (3, 256)).dequantise()
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(raw=hnp.arrays(np.uint8, (4, 144)))
def test_any_bytes_are_numbers_or_refused_by_name(raw: np.ndarray) -> None:
    """A Q4_K scale that is itself finite may still leave float16 once it is multiplied out."""
    weight = from_blocks(raw.reshape(-1), "Q4_K", (4, 256))
    if torch.isfinite(weight.dequantise()).all():
        assert check_finite("blk.0.ffn_up.weight", weight) is weight
    else:
        with pytest.raises(ModelError, match=r"blk\.0\.ffn_up\.weight"):
            check_finite("blk.0.ffn_up.weight", weight)


def test_a_scale_beyond_float16_is_refused_by_name() -> None:
    raw = blocks_of("Q4_K", 1, 256, 3)
    raw[:, 0:2] = np.array([3e4], np.float16).view(np.uint8)
    raw[:, 4] = 63
    with pytest.raises(ModelError, match=r"tensor w of the base .* beyond float16"):
        check_finite("w", from_blocks(raw.reshape(-1), "Q4_K", (1, 256)))


def test_rows_are_taken_and_stacked() -> None:
    one, two = (
        from_blocks(blocks_of("Q4_1", 4, 64, n).reshape(-1), "Q4_1", (4, 64)) for n in (1, 2)
    )
    both = stack([one, two])
    assert torch.equal(both.dequantise(), torch.cat([one.dequantise(), two.dequantise()]))
    rows = torch.tensor([7, 0, 7])
    assert torch.equal(both.take(rows).dequantise(), both.dequantise()[rows])


@pytest.mark.parametrize("kind", READERS)
def test_a_base_s_weights_are_read_as_they_lie_with_rows_in_hugging_face_s_order(
    tmp_path: Path, kind: str
) -> None:
    make_base(tmp_path / "base", spread=0.05, **SHAPE)
    meant = write_gguf(tmp_path / "base", tmp_path / "base.gguf", "llama", kind)
    weights = open_weights(tmp_path / "base.gguf")
    for name, plain in meant.items():
        weight = weights.read_quantised(name)
        if plain.ndim == 1:
            assert weight is None
        else:
            assert weight is not None
            torch.testing.assert_close(weight.dequantise(), plain, rtol=0, atol=4e-4)
            if kind in EXACT:
                assert torch.equal(weight.dequantise(), plain)


def test_a_number_format_of_other_widths_is_not_read_as_it_lies(tmp_path: Path) -> None:
    make_base(tmp_path / "base", spread=0.05, **SHAPE)
    write_gguf(tmp_path / "base", tmp_path / "base.gguf", "llama", "Q8_0")
    for path in (tmp_path / "base.gguf", tmp_path / "base"):
        assert open_weights(path).read_quantised("model.layers.0.mlp.up_proj.weight") is None

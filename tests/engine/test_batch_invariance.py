"""A request's bits do not depend on who sits beside it, nor on how its prompt was cut into
chunks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.config import Stored
from engine.model.families import SILU
from engine.model.layers import ROW_FLOOR, choose_linear_kernel, fold, make_linear

from .worlds import ALL_LINEAR, BOTH, VOCAB, Bench, make_base, some_tokens, write_adapter

EVERYWHERE = tuple(
    f"self_attn.{name}" if name in ALL_LINEAR[:4] else f"mlp.{name}" for name in ALL_LINEAR
)
ADAPTERS: list[bytes | None] = [None, b"r4", b"other r4", b"r7", b"qv", b"tokens", b"head"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("invariance")
    make_base(folder / "base")
    write_adapter(folder / "r4", 1, rank=4, modules=EVERYWHERE)
    write_adapter(folder / "other r4", 2, rank=4, modules=EVERYWHERE)
    write_adapter(folder / "r7", 3, rank=7, modules=EVERYWHERE)
    write_adapter(folder / "qv", 4, rank=5, modules=("self_attn.q_proj", "self_attn.v_proj"))
    torch.manual_seed(8)
    rows = {
        f"base_model.model.{name}.token_adapter.trainable_tokens_delta": torch.randn(3, 72)
        for name in ("model.embed_tokens", "lm_head")
    }
    write_adapter(
        folder / "tokens",
        5,
        extra=rows,
        trainable_token_indices={"embed_tokens": [9, 2, 40], "lm_head": [1, 2, 3]},
    )
    matrices = {
        f"base_model.model.{name}.weight": torch.randn(VOCAB, 72)
        for name in ("model.embed_tokens", "lm_head")
    }
    write_adapter(folder / "head", 6, extra=matrices, modules_to_save=["embed_tokens", "lm_head"])
    return folder


def open_bench(folder: Path, dtype: str, kernels: str) -> Bench:
    bench = Bench(
        folder / "base",
        torch.float32 if dtype == "float32" else torch.bfloat16,
        kernels,
        stored=Stored.INT8 if dtype == "int8" else Stored.PLAIN,
    )
    for name in ADAPTERS[1:]:
        assert name is not None
        bench.load(name, folder / name.decode())
    return bench


rows = st.tuples(
    st.sampled_from(ADAPTERS), st.integers(2, 150), st.integers(1, 60), st.integers(0, 10**6)
)
"""(adapter, length, tokens in the second step, seed)"""


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@settings(
    max_examples=10,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batch=st.lists(rows, min_size=2, max_size=9))
def test_logits_are_bit_equal_alone_and_in_any_mixed_batch(
    folder: Path, kernels: str, dtype: str, batch: list[tuple[bytes | None, int, int, int]]
) -> None:
    bench = open_bench(folder, dtype, kernels)
    together = [
        bench.sequence(some_tokens(length, seed), adapter) for adapter, length, _, seed in batch
    ]
    cuts = [max(1, length - tail) for _, length, tail, _ in batch]
    first = bench.forward(*((s, 0, cut) for s, cut in zip(together, cuts, strict=True)))
    second = bench.forward(
        *((s, cut, len(s.tokens)) for s, cut in zip(together, cuts, strict=True))
    )
    for sequence, (adapter, _, _, _) in zip(together[:3], batch, strict=False):
        mixed = torch.cat([first[id(sequence)], second[id(sequence)]])
        whole = bench.sequence(sequence.tokens, adapter)
        alone = bench.forward((whole, 0, len(whole.tokens)))[id(whole)]
        assert torch.equal(mixed, alone)
        stepped = bench.sequence(sequence.tokens, adapter)
        steps = [
            bench.forward((stepped, i, i + 1))[id(stepped)]
            for i in range(min(12, len(stepped.tokens)))
        ]
        assert torch.equal(torch.cat(steps), alone[: len(steps)])


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_long_contexts_cross_tiles_without_changing_a_bit(
    folder: Path, kernels: str, dtype: str
) -> None:
    bench = open_bench(folder, dtype, kernels)
    tokens = some_tokens(700, 5)
    whole = bench.sequence(tokens, b"r7")
    cut = bench.sequence(tokens, b"r7")
    other = bench.sequence(some_tokens(300, 6), b"r4")
    alone = bench.forward((whole, 0, 700))[id(whole)]
    parts = [
        bench.forward((cut, 0, 250), (other, 0, 200)),
        bench.forward((cut, 250, 699)),
        bench.forward((cut, 699, 700), (other, 200, 201)),
    ]
    assert torch.equal(torch.cat([part[id(cut)] for part in parts]), alone)


@BOTH
def test_a_page_left_dirty_by_an_overflowing_adapter_harms_nobody(
    folder: Path, kernels: str
) -> None:
    bench = open_bench(folder, "float32", kernels)
    clean = bench.sequence(some_tokens(20, 1))
    expected = bench.forward((clean, 0, 20))[id(clean)]
    bench.cache.pool[:, :, 1:] = float("nan")
    again = bench.sequence(some_tokens(20, 1))
    assert torch.equal(bench.forward((again, 0, 20))[id(again)], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [(768, 2048), (2048, 768), (112, 72)])
def test_a_row_s_product_has_the_same_bits_among_any_number_of_rows_and_on_two_threads(
    dtype: torch.dtype, width: tuple[int, int]
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        linear = make_linear(torch.randn(width[1], width[0]).to(dtype), choose_linear_kernel(dtype))
        x = torch.randn(300, width[0]).to(dtype)
        whole = linear(x)
        floor = ROW_FLOOR[dtype]
        for count in (floor, floor + 1, 33, 64, 100, 257):
            assert torch.equal(linear(x[7 : 7 + count]), whole[7 : 7 + count])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [100, 112, 2048, 40_000])
def test_a_row_s_gate_has_the_same_bits_among_any_number_of_rows_and_on_two_threads(
    dtype: torch.dtype, width: int
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rows = 301 if width < 10_000 else 40  # one such row is already shared among the threads
        x = (4 * torch.randn(rows, 2 * width)).to(dtype)
        whole = fold(x, SILU)
        for first, count in ((0, 1), (3, 2), (8, 17), (rows // 3, rows // 5), (1, rows - 1)):
            assert torch.equal(fold(x[first : first + count], SILU), whole[first : first + count])
    finally:
        torch.set_num_threads(threads)

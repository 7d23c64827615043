from __future__ import annotations

import gc

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.executor.pages import ALIGN_BYTES, REGION_BYTES, HugePages

DTYPES = st.sampled_from([torch.int8, torch.bfloat16, torch.float32])


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 700), DTYPES), min_size=1, max_size=12)
)
def test_tensors_are_zero_aligned_and_apart(wanted: list[tuple[int, int, torch.dtype]]) -> None:
    pages = HugePages()
    given_out = [pages.zeros(rows, columns, dtype=dtype) for rows, columns, dtype in wanted]
    for number, tensor in enumerate(given_out, 1):
        assert tensor.data_ptr() % ALIGN_BYTES == 0
        assert tensor.is_contiguous()
        assert not tensor.any()
        tensor.fill_(number)
    assert all((tensor == number).all() for number, tensor in enumerate(given_out, 1))


def test_one_larger_than_a_region_has_a_region_of_its_own() -> None:
    pages = HugePages()
    small, large, after = (
        pages.zeros(size, dtype=torch.int8) for size in (10, REGION_BYTES + 1, 10)
    )
    large[-1] = after[0] = 7
    assert not small.any()
    assert large.sum() == 7


def test_a_tensor_outlives_what_it_came_from() -> None:
    tensor = HugePages().zeros(100, dtype=torch.float32)
    gc.collect()
    tensor.fill_(2.0)
    assert tensor.sum() == 200.0

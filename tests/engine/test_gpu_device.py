"""What a device promises, held by the one of torch.cuda and by its stand-in alike. The first is marked `mark.gpu`."""

from __future__ import annotations

import pytest
import torch

from engine.cuda.device import COPY_BYTES, CudaDevice, Device, HostDevice
from engine.lora.layout import PAGE_BYTES, pack

from .gpu_worlds import CARD, LLAMA, random_adapter


@pytest.fixture(params=["host", CARD])
def device(request: pytest.FixtureRequest) -> Device:
    return HostDevice() if request.param == "host" else CudaDevice()


def test_it_says_what_it_is_and_how_much_memory_it_has(device: Device) -> None:
    memory = device.memory()
    assert 0 < memory.free_bytes <= memory.total_bytes
    assert device.name
    assert len(device.capability) == 2


def test_memory_that_is_freed_counts_as_free_again(device: Device) -> None:
    before = device.memory().free_bytes
    held = torch.empty(64 << 20, dtype=torch.uint8, device=device.where)
    assert device.memory().free_bytes <= before
    del held
    device.release()
    assert device.memory().free_bytes >= before - (8 << 20)


def test_copies_arrive_whole_and_in_order(device: Device) -> None:
    """More than one piece long, of every kind of number, the second over the first."""
    targets = [torch.zeros(2 * COPY_BYTES + 100, dtype=torch.uint8, device=device.where), torch.zeros(3, 5, device=device.where)]
    first = [torch.randint(0, 200, (len(targets[0]),), dtype=torch.uint8), torch.randn(3, 5)]
    second = [torch.randint(0, 200, (len(targets[0]),), dtype=torch.uint8), torch.randn(3, 5)]
    for sources in (first, second):
        event = device.copy(zip(sources, targets, strict=True))
    event.wait()
    for source, target in zip(second, targets, strict=True):
        assert torch.equal(source, target.cpu())


def test_pinned_memory_is_zeroed_and_copied_from_and_to(device: Device) -> None:
    pinned = device.pinned(1000)
    assert pinned.shape == (1000,)
    assert not pinned.any()
    pinned.copy_(torch.arange(1000, dtype=torch.int32).to(torch.uint8))
    there = torch.empty(1000, dtype=torch.uint8, device=device.where)
    there.copy_(pinned, non_blocking=True)
    back = device.pinned(1000)
    back.copy_(there, non_blocking=True)
    device.mark().wait()
    assert torch.equal(back, pinned)


def test_an_adapter_s_blob_can_be_pinned_where_it_is_and_let_go_of(device: Device) -> None:
    blobs = [random_adapter(LLAMA, seed, 4, torch.float32, everything=True).blob for seed in range(3)]
    assert all(blob.data_ptr() % PAGE_BYTES == 0 for blob in blobs)
    undo = [device.pin(blob) for blob in blobs]
    assert all(each is not None for each in undo) or device.where.type == "cpu"
    there = [torch.empty_like(blob, device=device.where) for blob in blobs]
    device.copy(zip(blobs, there, strict=True)).wait()
    for each in undo:
        if each is not None:
            each()
    assert all(torch.equal(blob, copied.cpu()) for blob, copied in zip(blobs, there, strict=True))
    again = device.pin(blobs[0])
    assert (again is None) == (device.where.type == "cpu"), "it could not be pinned again: it was not let go of"
    if again is not None:
        again()


def test_no_two_blobs_share_a_page() -> None:
    blobs = [pack(LLAMA, {}, torch.float32).blob for _ in range(4)] + [random_adapter(LLAMA, 1, 1, torch.float32).blob for _ in range(4)]
    assert all(blob.data_ptr() % PAGE_BYTES == 0 for blob in blobs)


def test_a_graph_does_its_work_again_over_what_lies_there_by_then(device: Device) -> None:
    x, total = torch.ones(4, device=device.where), torch.zeros(4, device=device.where)

    def work() -> None:
        total.add_(x)

    work()
    replay = device.capture(work)
    x.fill_(10.0)
    for _ in range(2):
        replay()
    device.mark().wait()
    assert total.tolist() == [21.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_added_up_and_given_in_float32(device: Device, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(rows, 4096, generator=generator).to(dtype) for rows in (5, 64))
    out = torch.empty(5, 64, device=device.where)
    device.product(x.to(device.where), weight.to(device.where), out)
    exact = x.double() @ weight.double().T
    assert float((out.cpu() - exact).abs().max()) < 1e-4 * float(exact.abs().max())

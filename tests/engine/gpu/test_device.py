"""What a device promises, held by the one of torch.cuda and by its stand-in alike.

The first is marked `mark.gpu`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.cuda import device as device_module
from engine.cuda.device import COPY_BYTES, CudaDevice, Device, HostDevice
from engine.lora.layout import PAGE_BYTES, pack
from tests.engine.gpu.worlds import CARD, LLAMA, random_adapter


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
    targets = [
        torch.zeros(2 * COPY_BYTES + 100, dtype=torch.uint8, device=device.where),
        torch.zeros(3, 5, device=device.where),
    ]
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
    blobs = [
        random_adapter(LLAMA, seed, 4, torch.float32, everything=True).blob for seed in range(3)
    ]
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
    assert (again is None) == (device.where.type == "cpu"), (
        "it could not be pinned again: it was not let go of"
    )
    if again is not None:
        again()


def test_no_two_blobs_share_a_page() -> None:
    blobs = [pack(LLAMA, {}, torch.float32).blob for _ in range(4)] + [
        random_adapter(LLAMA, 1, 1, torch.float32).blob for _ in range(4)
    ]
    assert all(blob.data_ptr() % PAGE_BYTES == 0 for blob in blobs)


def test_a_graph_does_its_work_again_over_what_lies_there_by_then(device: Device) -> None:
    x = torch.ones(4, device=device.where)
    total = torch.zeros(4, device=device.where)

    def work() -> None:
        total.add_(x)

    work()
    replay = device.capture(work)
    x.fill_(10.0)
    for _ in range(2):
        replay()
    device.mark().wait()
    assert total.tolist() == [21.0] * 4


def test_what_is_pinned_already_is_not_pinned_again_and_leaves_no_error_for_the_next_launch(
    device: Device,
) -> None:
    whole = device.pinned(4 * PAGE_BYTES)
    assert device.pin(whole[-whole.data_ptr() % PAGE_BYTES :][:PAGE_BYTES]) is None
    assert torch.ones(3, device=device.where).add_(1).tolist() == [2.0] * 3


def test_a_call_of_the_runtime_that_fails_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that torch does not take its error for that of the next launch."""
    taken: list[str | None] = []
    runtime = SimpleNamespace(cudaGetLastError=lambda: taken.append("error"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: runtime)
    assert device_module._succeeds(0)
    assert not taken
    assert not device_module._succeeds(712)
    assert taken == ["error"]
    monkeypatch.setattr(
        ctypes, "CDLL", lambda name: SimpleNamespace()
    )  # a torch that keeps the library to itself
    assert not device_module._succeeds(712)


@pytest.mark.parametrize("device", [CARD], indirect=True)
def test_a_capture_that_breaks_breaks_no_later_one(device: Device) -> None:
    x = torch.ones(4, device=device.where)
    stream = torch.cuda.current_stream()

    def add() -> None:
        x.add_(1)

    def wait() -> None:
        add()
        x.cpu()

    def fail() -> None:
        add()
        raise ZeroDivisionError

    add()
    for breaking in (wait, fail):
        replay = device.capture(add)
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            device.capture(breaking)
        assert torch.cuda.current_stream() == stream
        before = x.tolist()
        replay()
        del replay
        assert x.tolist() == [each + 1 for each in before]


class Torn:
    """In the place of torch.cuda.graph: the end of a capture that was broken raises, before it has
    gone back to the stream it came from.
    """

    def __init__(self, graph: Any, pool: tuple[int, int], capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        self._graph = graph
        graph.pool = lambda: pool

    def __enter__(self) -> None:
        self._graph.log.append("begin")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            raise RuntimeError(
                "CUDA error: operation failed due to a previous error during capture"
            )


def test_a_broken_capture_gives_its_pool_and_its_thread_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a card, with stand-ins for what torch does there."""
    log: list[Any] = []
    pools = count(1)

    @contextmanager
    def stream(_: object) -> Iterator[None]:
        log.append("there")
        try:
            yield
        finally:
            log.append("back")

    monkeypatch.setattr(
        torch.cuda, "CUDAGraph", lambda: SimpleNamespace(log=log, replay=lambda: None)
    )
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, next(pools)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "stream")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", Torn)
    monkeypatch.setattr(
        torch._C,
        "_cuda_endAllocateToPool",
        lambda index, pool: log.append((index, pool)),
        raising=False,
    )
    card = CudaDevice.__new__(CudaDevice)
    card.where = torch.device("cuda", 0)
    card._first_graph = None
    with pytest.raises(RuntimeError, match="previous error"):
        card.capture(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert log == ["there", "begin", "back", (0, (0, 1))]
    card.capture(lambda: None)
    with pytest.raises(RuntimeError, match="previous error"):
        card.capture(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert log[-1] == (0, (0, 2)), "all graphs share the pool of the first that was captured"
    assert card._first_graph.pool() == (0, 2)


def test_work_beside_is_done_for_what_comes_after_and_so_in_a_graph(device: Device) -> None:
    """The work's own scratch is used again by the next, as by one linear after the other."""
    x, scratch, total = (
        torch.full((1 << 20,), number, device=device.where) for number in (1.0, 0.0, 0.0)
    )

    def work() -> None:
        for factor in (2.0, 3.0):
            with device.beside(lambda factor=factor: torch.mul(x, factor, out=scratch)):  # type: ignore[misc]
                total.mul_(10.0)
            total.add_(scratch)

    work()
    assert total.cpu().unique().tolist() == [23.0]
    replay = device.capture(work)
    x.fill_(0.5)
    replay()
    device.mark().wait()
    assert total.cpu().unique().tolist() == [2311.5]


def test_work_beside_waits_for_what_came_before_and_is_waited_for_even_when_something_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a card, with stand-ins for its streams."""
    log: list[str] = []
    here, side = (SimpleNamespace(name=name) for name in ("here", "side"))
    for each in (here, side):
        each.wait_stream = lambda other, each=each: log.append(
            f"{each.name} waits for {other.name}"
        )

    @contextmanager
    def stream(each: Any) -> Iterator[None]:
        log.append(f"on {each.name}")
        yield
        log.append("back")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: here)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    card = CudaDevice.__new__(CudaDevice)
    card._side = side
    with card.beside(lambda: log.append("work")):
        log.append("product")
    assert log == [
        "side waits for here",
        "on side",
        "work",
        "back",
        "product",
        "here waits for side",
    ]
    for work, product in ((lambda: 1 / 0, lambda: None), (lambda: None, lambda: 1 / 0)):
        log.clear()
        with pytest.raises(ZeroDivisionError), card.beside(work):  # type: ignore[arg-type]
            product()
        assert log[-1] == "here waits for side"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_added_up_and_given_in_float32(device: Device, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(rows, 4096, generator=generator).to(dtype) for rows in (5, 64))
    out = torch.empty(5, 64, device=device.where)
    device.product(x.to(device.where), weight.to(device.where), out)
    exact = x.double() @ weight.double().T
    assert float((out.cpu() - exact).abs().max()) < 1e-4 * float(exact.abs().max())

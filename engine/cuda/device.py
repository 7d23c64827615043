"""What the engine asks of a device beyond tensors: memory, pinning, copies beside the computing,
graphs, events. The seam for tests.

CudaDevice is torch.cuda. HostDevice is this machine's memory under the same contract: a stream is
immediate and a graph runs its work again, so that everything above the seam runs, and can be made
to fail, without a card.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..count import round_up
from ..errors import DeviceLost, OutOfDeviceMemory
from ..lora.layout import PAGE_BYTES

COPY_BYTES = 4 << 20
"""An adapter is copied in pieces of so many bytes: the engine that copies to the device takes one
after the other, and between two of them comes the step whose tables wait for it.
"""
Work = Callable[[], None]


@dataclass(frozen=True)
class Memory:
    """Bytes of the device's memory: what is free now for this process, and all of it."""

    free_bytes: int
    total_bytes: int


class Event(Protocol):
    """A point in a stream of work."""

    def wait(self) -> None:
        """Sleep until the device has reached it."""


class Device(Protocol):
    """One device.

    Computing is one stream, copies of adapters another; nothing here waits for the whole device.

    Errors come as OutOfDeviceMemory, after which the device goes on, or DeviceLost, after which
    this process cannot.
    """

    name: str
    where: torch.device
    capability: tuple[int, int]
    """NVIDIA's generation of it, as 9.0."""

    def memory(self) -> Memory:
        """How much there is."""

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """Zeroed host memory [size_bytes] uint8 that the device copies from and to without the
        processor's help.
        """

    def pin(self, blob: torch.Tensor) -> Work | None:
        """Make memory that is there already such memory; gives what undoes it, or None where it
        cannot be.
        """

    def capture(self, work: Work) -> Work:
        """Record work that has run before; gives what runs it again in one launch, over the same
        addresses.
        """

    def mark(self) -> Event:
        """After everything that was computed so far."""

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Event:
        """Begin to copy each host tensor into its device tensor, beside the computing and in the
        order of calls; the caller keeps both.
        """

    def beside(self, work: Work) -> AbstractContextManager[None]:
        """Begin `work`, beside what the block computes; whatever comes after the block comes after
        both, also where the block fails.

        The work reads what was computed before and nothing that the block writes, and makes no
        tensors.
        """

    def product(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        """`x [rows, in] @ weight[out, in].T` into `out [rows, out]` float32, added up in
        float32.
        """

    def release(self) -> None:
        """Give memory back that only a cache holds."""


def fault_of(error: BaseException) -> OutOfDeviceMemory | DeviceLost | None:
    """What an error of torch, cuBLAS or Triton means for this process; None when it is no fault of
    the device.
    """
    text = str(error)
    if isinstance(error.__context__, torch.OutOfMemoryError):
        # what a broken capture says when it is ended is only what follows from it
        return fault_of(error.__context__)
    of_cuda = isinstance(error, RuntimeError) and any(
        word in text for word in ("CUDA", "CUBLAS_STATUS")
    )
    if isinstance(error, torch.OutOfMemoryError) or (
        of_cuda and ("out of memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text)
    ):
        return OutOfDeviceMemory(
            f"the device has no memory left ({_first_line(text)}); retry with less at a time, or"
            " ask another node"
        )
    if of_cuda and any(
        word in text
        for word in ("CUDA error", "CUDA driver error", "Triton Error [CUDA]", "CUBLAS_STATUS")
    ):
        return DeviceLost(f"the device is lost: {_first_line(text)}")
    return None


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200] or "without a word"


class CudaDevice:
    """The current CUDA device."""

    def __init__(self) -> None:
        self.where = torch.device("cuda", torch.cuda.current_device())
        self.name = torch.cuda.get_device_name(self.where)
        self.capability = torch.cuda.get_device_capability(self.where)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (
            False  # sums of products stay float32 until they are whole
        )
        self._cuda: Any = torch.cuda  # parts of it are without types
        self._copies = self._cuda.Stream(self.where)
        self._side = self._cuda.Stream(self.where)
        self._first_graph: Any = None

    def memory(self) -> Memory:
        """See Device. What torch keeps in reserve for this process counts as free."""
        free, total = torch.cuda.mem_get_info(self.where)
        return Memory(
            free + torch.cuda.memory_reserved(self.where) - torch.cuda.memory_allocated(self.where),
            total,
        )

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """See Device."""
        return torch.zeros(size_bytes, dtype=torch.uint8, pin_memory=True)

    def pin(self, blob: torch.Tensor) -> Work | None:
        """See Device.

        The blob's pages must be its own: the driver refuses to pin a page twice. What cannot be
        pinned is copied all the same.
        """
        runtime = self._cuda.cudart()
        address = blob.data_ptr()
        size = round_up(blob.numel(), PAGE_BYTES)
        if (
            address % PAGE_BYTES
            or blob.is_pinned()
            or not _succeeds(runtime.cudaHostRegister(address, size, 0))
        ):
            return None

        def undo() -> None:
            _succeeds(runtime.cudaHostUnregister(address))

        return undo

    def capture(self, work: Work) -> Work:
        """See Device. All graphs share one pool of memory: no two of them run at once.

        Other threads may pin, copy and allocate meanwhile: only what this one does must not wait. A
        capture that breaks would leave this thread on the stream of captures, and the allocator
        serving all from the pool, which no later capture could use.
        """
        graph = torch.cuda.CUDAGraph()
        first = self._first_graph
        pool = torch.cuda.graph_pool_handle() if first is None else first.pool()
        try:
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
            ):
                work()
        except BaseException:  # raised again, once this thread is back where it was
            # RuntimeError: of an allocator that is done with the pool, as it is when the work
            # itself has failed
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self.where.index, pool)
            raise
        self._first_graph = first or graph  # a pool lives only as long as one of its graphs
        return graph.replay

    def mark(self) -> Event:
        """See Device."""
        event = self._cuda.Event()
        event.record()
        return _CudaEvent(event)

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Event:
        """See Device."""
        event = self._cuda.Event(
            blocking=True
        )  # who waits for a copy sleeps; who waits for a step spins
        with torch.cuda.stream(self._copies):
            for source, target in pairs:
                numbers = COPY_BYTES // source.element_size()
                for piece, place in zip(
                    torch.split(source.flatten(), numbers),
                    torch.split(target.flatten(), numbers),
                    strict=True,
                ):
                    place.copy_(piece, non_blocking=True)
            event.record(self._copies)
        return _CudaEvent(event)

    @contextlib.contextmanager
    def beside(self, work: Work) -> Iterator[None]:
        """See Device. In a graph the work is a branch of its own.

        The allocator need not know of the second stream: what is freed after the block is given
        away when both are joined.
        """
        here = torch.cuda.current_stream()
        self._side.wait_stream(here)
        try:
            with torch.cuda.stream(self._side):
                work()
            yield
        finally:
            here.wait_stream(self._side)

    def product(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        """See Device."""
        if x.dtype == torch.float32:
            torch.mm(x, weight.t(), out=out)
        else:
            torch.ops.aten.mm.dtype_out(x, weight.t(), torch.float32, out=out)

    def release(self) -> None:
        """See Device."""
        torch.cuda.empty_cache()


def _succeeds(status: Any) -> bool:
    """Whether a call of CUDA's runtime succeeded.

    If not, the runtime forgets it: torch would take its last error for that of the next launch.
    """
    if int(status) == 0:
        return True
    with contextlib.suppress(
        AttributeError
    ):  # torch binds no name for it, but has loaded the library for all to see
        ctypes.CDLL(None).cudaGetLastError()
    return False


@dataclass(frozen=True)
class _CudaEvent:
    event: Any

    def wait(self) -> None:
        self.event.synchronize()


class HostDevice:
    """This machine's memory as a device, with as many bytes as `memory_bytes` says."""

    def __init__(self, memory_bytes: int = 1 << 30) -> None:
        self.where = torch.device("cpu")
        self.name = "host memory"
        self.capability = (0, 0)
        self._memory_bytes = memory_bytes

    def memory(self) -> Memory:
        """See Device."""
        return Memory(self._memory_bytes, self._memory_bytes)

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """See Device."""
        return torch.zeros(size_bytes, dtype=torch.uint8)

    def pin(self, blob: torch.Tensor) -> Work | None:
        """See Device."""
        return None

    def capture(self, work: Work) -> Work:
        """See Device."""
        return work

    def mark(self) -> Event:
        """See Device."""
        return _Past()

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Event:
        """See Device."""
        for source, target in pairs:
            target.copy_(source)
        return _Past()

    def beside(self, work: Work) -> AbstractContextManager[None]:
        """See Device."""
        work()
        return contextlib.nullcontext()

    def product(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        """See Device."""
        torch.mm(x.float(), weight.float().t(), out=out)

    def release(self) -> None:
        """See Device."""


class _Past:
    """What has happened already."""

    def wait(self) -> None:
        pass

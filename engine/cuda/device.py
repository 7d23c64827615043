"""Gives the engine what it needs of a device beyond tensors: memory, pinning, copies beside the
computing, graphs, events. It is the seam for tests.

CudaDevice is torch.cuda. HostDevice is this machine's memory under the same contract: a stream is
immediate and a graph runs its work again, so everything above the seam runs, and can be made to
fail, without a card. Decides which errors cost the process (`fault_of`); knows no model and no
adapter.
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
"""Bytes of one piece of an adapter's copy. The card's copy engine takes one piece after the other,
and between two of them a waiting step's tables get their turn.
"""
Work = Callable[[], None]


@dataclass(frozen=True)
class Memory:
    """Bytes of the device's memory: what is free now for this process, and the total."""

    free_bytes: int
    total_bytes: int


class Event(Protocol):
    """A point in a stream of work."""

    def wait(self) -> None:
        """Sleep until the device has reached it."""


class Device(Protocol):
    """One device.

    Computing is one stream, copies of adapters another; nothing here waits for the whole device.

    Errors come as OutOfDeviceMemory, after which the device goes on, or as DeviceLost, after which
    this process cannot use it.
    """

    name: str
    where: torch.device
    capability: tuple[int, int]
    """NVIDIA's generation of it, as 9.0."""

    def memory(self) -> Memory:
        """Measure how much memory there is."""

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """Allocate zeroed host memory [size_bytes] uint8 that the device copies from and to by
        itself (DMA).
        """

    def pin(self, blob: torch.Tensor) -> Work | None:
        """Page-lock memory that exists already; return what undoes it, or None where that is
        impossible.
        """

    def capture(self, work: Work) -> Work:
        """Record work that has run before; return what runs it again in one launch, over the same
        addresses.
        """

    def mark(self) -> Event:
        """Return the point after everything that was computed so far."""

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Event:
        """Begin to copy each host tensor into its device tensor, beside the computing and in the
        order of calls.

        The caller keeps both tensors until the event has passed.
        """

    def beside(self, work: Work) -> AbstractContextManager[None]:
        """Begin `work` beside what the block computes.

        Whatever follows the block runs after both, even if the block fails. The work reads what was
        computed before and nothing that the block writes, and makes no tensors.
        """

    def product(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        """Compute `x [rows, in] @ weight[out, in].T` into `out [rows, out]` float32, accumulated in
        float32.
        """

    def release(self) -> None:
        """Give back memory that only a cache holds."""


def fault_of(error: BaseException) -> OutOfDeviceMemory | DeviceLost | None:
    """Return what an error of torch, cuBLAS or Triton means for this process; None when the device
    is not at fault.
    """
    text = str(error)
    if isinstance(error.__context__, torch.OutOfMemoryError):
        # a broken capture raises again when it is ended; the cause is the error before that
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
        # sums of products stay float32 until they are complete
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self._cuda: Any = torch.cuda  # parts of it have no types
        self._copies = self._cuda.Stream(self.where)
        self._side = self._cuda.Stream(self.where)
        self._first_graph: Any = None

    def memory(self) -> Memory:
        """Measure how much memory there is; what torch keeps in reserve for this process counts as
        free.
        """
        free, total = torch.cuda.mem_get_info(self.where)
        return Memory(
            free + torch.cuda.memory_reserved(self.where) - torch.cuda.memory_allocated(self.where),
            total,
        )

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """Allocate zeroed page-locked host memory."""
        return torch.zeros(size_bytes, dtype=torch.uint8, pin_memory=True)

    def pin(self, blob: torch.Tensor) -> Work | None:
        """Register a blob with the driver; return what unregisters it, or None if it cannot be
        pinned.

        Its pages must be its own: the driver refuses to pin a page twice. A blob that cannot be
        pinned is copied all the same, only more slowly.
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
        """Record a CUDA graph. All graphs share one pool of memory, since no two of them run at
        once.

        Other threads may pin, copy and allocate meanwhile: only this one must not wait during a
        capture. A capture that breaks would leave this thread on the capture stream and the
        allocator serving everything from the pool, which no later capture could use; hence the
        clean-up.
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
            # The allocator raises when it is done with the pool already, as it is when the work
            # itself has failed.
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self.where.index, pool)
            raise
        self._first_graph = first or graph  # a pool lives only as long as one of its graphs
        return graph.replay

    def mark(self) -> Event:
        """Record an event on the current stream."""
        event = self._cuda.Event()
        event.record()
        return _CudaEvent(event)

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Event:
        """Begin copies on the stream of copies, in pieces of COPY_BYTES."""
        # Blocking: whoever waits for a copy has time and sleeps; only a step is worth spinning for.
        event = self._cuda.Event(blocking=True)
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
        """Run the work on a second stream; in a graph it becomes a branch of its own.

        The allocator need not know of the second stream: what is freed after the block is reused
        only when both are joined.
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
        """Multiply by cuBLAS, with float32 output from the short types as well."""
        if x.dtype == torch.float32:
            torch.mm(x, weight.t(), out=out)
        else:
            torch.ops.aten.mm.dtype_out(x, weight.t(), torch.float32, out=out)

    def release(self) -> None:
        """Empty torch's cache of device memory."""
        torch.cuda.empty_cache()


def _succeeds(status: Any) -> bool:
    """Return whether a call to CUDA's runtime succeeded.

    If not, clear the runtime's last error: torch would take it for that of the next launch.
    """
    if int(status) == 0:
        return True
    # torch gives the call no name, but has loaded the library that has it
    with contextlib.suppress(AttributeError):
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
        """Return the size given to this device, all of it free."""
        return Memory(self._memory_bytes, self._memory_bytes)

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """Allocate ordinary zeroed memory."""
        return torch.zeros(size_bytes, dtype=torch.uint8)

    def pin(self, blob: torch.Tensor) -> Work | None:
        """Pin nothing, so return None."""
        return None

    def capture(self, work: Work) -> Work:
        """Record nothing: to run the work again is the graph."""
        return work

    def mark(self) -> Event:
        """Return an event that has passed."""
        return _Past()

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Event:
        """Copy at once; return an event that has passed."""
        for source, target in pairs:
            target.copy_(source)
        return _Past()

    def beside(self, work: Work) -> AbstractContextManager[None]:
        """Run the work at once, before the block."""
        work()
        return contextlib.nullcontext()

    def product(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        """Multiply in float32."""
        torch.mm(x.float(), weight.float().t(), out=out)

    def release(self) -> None:
        """Do nothing: there is no cache."""


class _Past:
    """An event that has passed already."""

    def wait(self) -> None:
        pass

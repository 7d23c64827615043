"""What can go wrong with a device, made to go wrong at the seam: memory runs out, copies are late,
the device is lost or hangs.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from engine import choose
from engine.build import assemble
from engine.choose import choose_machine, find_accelerator
from engine.config import EngineConfig, choose_dtype, settled
from engine.cuda import executor
from engine.cuda.accelerator import Accelerator
from engine.cuda.device import Device, Event, HostDevice, Work, fault_of
from engine.cuda.kernels import REFERENCES, Kernels
from engine.cuda.watchdog import HANGS, Watchdog
from engine.errors import DeviceLost, ModelError, OutOfDeviceMemory
from engine.framing import READ_BYTES, MessageDecoder, encode_frames
from engine.info import describe
from engine.lora.bank import CopyDone
from engine.lora.loader import Source
from engine.messages import Cancel, Failed, Finished, FromEngine, Ready, Submit
from engine.server import Server
from tests.engine.gpu.worlds import LLAMA, Narrow, RandomAdapters, random_weights
from tests.engine.worlds import Lab, make_base, some_tokens, submit

DEADLINE_S = 60.0
FIRST = b"\1" * 32
SECOND = b"\2" * 32


class LateDevice(HostDevice):
    """A copy moves its bytes when `gate` lets it, in the order of copies: until then the slot holds
    what it held.
    """

    def __init__(self, gate: Callable[[], None]) -> None:
        super().__init__()
        self._gate = gate

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Event:
        return _LateCopy(self._gate, list(pairs))


class _LateCopy:
    def __init__(
        self, gate: Callable[[], None], pairs: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        self._gate = gate
        self._pairs = pairs

    def wait(self) -> None:
        self._gate()
        for source, target in self._pairs:
            target.copy_(source)


def open_lab(
    device: Device | None,
    kernels: Kernels = REFERENCES,
    adapters: int = 6,
    room_bytes: int = 64 << 20,
    **settings: Any,
) -> Lab:
    """`device` None: the processor, which says what is right."""
    accelerator = None if device is None else Narrow(device, kernels, room_bytes)
    lab = Lab(
        random_weights(LLAMA), accelerator=accelerator, load=RandomAdapters(LLAMA), **settings
    )
    for number in range(adapters):
        lab.hold(bytes([number]) * 32, Path(str(number)))
    return lab


def ask(request_id: int, adapter: bytes | None = None, tokens: int = 6) -> Submit:
    return submit(request_id, some_tokens(9, 5), adapter, tokens=tokens)


@pytest.fixture(scope="module")
def right() -> dict[bytes | None, list[int]]:
    """What each adapter answers."""
    lab = open_lab(None)
    answers = {
        name: lab.run(ask(number, name))[number]
        for number, name in enumerate([None, *(bytes([n]) * 32 for n in range(6))])
    }
    lab.close()
    return answers


# --- copies that take their time ---


def test_others_go_on_while_an_adapter_is_copied_and_its_request_runs_when_it_is_there(
    right: dict[bytes | None, list[int]],
) -> None:
    gate = threading.Event()
    lab = open_lab(LateDevice(lambda: _wait(gate)))
    lab.engine.handle(ask(1, FIRST))
    lab.engine.handle(ask(2))
    while lab.step():
        pass
    assert lab.tokens(2) == right[None]
    assert lab.tokens(1) == []
    assert lab.engine.num_copying == 1
    gate.set()
    lab.drain()
    assert lab.tokens(1) == right[FIRST]
    lab.close()


def _open_with_one_evicted_early() -> tuple[Lab, threading.Event]:
    """One slot, given to FIRST and then to SECOND before a byte of either has come; copies end when
    the event is set.
    """
    gate = threading.Event()
    lab = open_lab(LateDevice(lambda: _wait(gate)), max_adapters=1)
    lab.engine.handle(ask(1, FIRST))
    lab.step()
    lab.engine.handle(Cancel(1))
    lab.engine.handle(ask(2, SECOND))
    lab.step()
    return lab, gate


def test_an_adapter_evicted_while_its_copy_is_under_way_does_no_harm(
    right: dict[bytes | None, list[int]],
) -> None:
    lab, gate = _open_with_one_evicted_early()
    assert lab.engine.num_copying == 2
    gate.set()
    lab.drain()
    assert lab.tokens(2) == right[SECOND]
    assert lab.run(ask(3, FIRST))[3] == right[FIRST]
    assert lab.engine.num_copying == 0
    lab.close()


def test_a_copy_that_ends_after_its_slot_was_given_away_makes_nobody_ready() -> None:
    lab, gate = _open_with_one_evicted_early()
    adapters = lab.engine._adapters
    adapters.copied(CopyDone(adapters.slots.generation(FIRST), 1.0))
    assert not adapters.is_ready(FIRST)
    assert not adapters.is_ready(SECOND)
    gate.set()
    lab.close()


def test_more_adapters_than_slots_take_turns_though_each_copy_takes_longer_than_a_seat_lasts(
    right: dict[bytes | None, list[int]],
) -> None:
    """A seat's time begins when the bytes are there; otherwise an adapter that comes slowly would
    be sent away before it ever ran.
    """
    lab = open_lab(LateDevice(lambda: None), max_adapters=2, seat_steps=4)
    requests = [ask(number, bytes([number]) * 32) for number in range(6)]
    for request in [*requests, ask(6, None, 200)]:
        lab.engine.handle(request)
    quiet = 0
    while not all(
        any(isinstance(m, Finished) and m.request_id == number for m in lab.messages)
        for number in range(6)
    ):
        lab.engine.step()  # without taking in what has arrived, but for every tenth time
        lab.collect()
        quiet += 1
        if quiet % 10 == 0 and lab.engine.num_copying:
            lab.engine.receive(lab.done.get(timeout=DEADLINE_S))
        assert quiet < 2000, "somebody is loaded and sent away for ever"
    assert [lab.tokens(number) for number in range(6)] == [
        right[bytes([number]) * 32] for number in range(6)
    ]
    lab.drain()
    lab.close()


def test_random_operations_with_late_copies_in_little_room_give_the_right_answers(
    right: dict[bytes | None, list[int]],
) -> None:
    """Adapters of six sizes over an arena that holds two or three of them; requests come and are
    cancelled; copies end in their own time.
    """
    draw = random.Random(3)
    gate = threading.Semaphore(0)
    sizes = [size_of(number) for number in range(6)]
    room_bytes = max(sizes) + sorted(sizes)[3]
    lab = open_lab(LateDevice(lambda: _acquire(gate)), room_bytes=room_bytes, max_adapters=4)
    adapters = {
        number: draw.choice([None, *(bytes([n]) * 32 for n in range(6))]) for number in range(200)
    }
    for number, adapter in adapters.items():
        lab.engine.handle(ask(number, adapter))
        for _ in range(draw.randrange(6)):
            lab.step()
            gate.release(1 + draw.randrange(3))
        if draw.random() < 0.3:
            lab.engine.handle(Cancel(draw.randrange(number + 1)))
    gate.release(100_000)
    lab.drain()
    whole = 0
    for number, adapter in adapters.items():
        end = lab.end(number)
        assert isinstance(end, Finished), end
        tokens = lab.tokens(number)
        assert tokens == right[adapter][: len(tokens)]
        whole += end.reason == "length"
    assert whole > 120
    slots = lab.engine._adapters.slots
    assert slots.ready()
    assert slots.room_bytes <= room_bytes, "each step's check saw that nothing lies outside it"
    lab.close()


# --- what is chosen ---


def test_without_a_device_the_processor_serves_unless_a_device_is_insisted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [find_accelerator(kernels) for kernels in ("auto", "native", "torch")] == [None] * 3
    with pytest.raises(ModelError, match=r"kernels is cuda, but .* CUDA"):
        find_accelerator("cuda")
    with pytest.raises(ModelError, match="one of auto, cuda, native, torch"):
        find_accelerator("metal")


def test_a_card_that_is_too_old_for_the_kernels_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = HostDevice()
    old.name = "an old card"
    old.capability = (6, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("engine.cuda.device.CudaDevice", lambda: old)
    assert find_accelerator("auto") is None
    with pytest.raises(
        ModelError, match=r"an old card has compute capability 6.1, and Triton compiles for 7.0"
    ):
        find_accelerator("cuda")


def test_what_a_device_cannot_run_goes_to_the_processor_and_says_why_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choose, "_open_device", lambda: Accelerator(HostDevice(), REFERENCES))
    odd = replace(LLAMA, head_dim=12)
    assert isinstance(find_accelerator("auto", LLAMA, "auto"), Accelerator)
    assert find_accelerator("auto", odd) is None
    for dtype in ("int8", "q4"):
        assert isinstance(find_accelerator("cuda", LLAMA, dtype), Accelerator)
    with pytest.raises(ModelError, match="head_dim 12"):
        find_accelerator("cuda", odd)
    wide = replace(LLAMA, head_dim=256)
    assert isinstance(find_accelerator("cuda", wide, "bfloat16"), Accelerator)
    with pytest.raises(
        ModelError,
        match="head_dim 256 is not a multiple of 16 up to 128, the most in float32 there",
    ):
        find_accelerator("cuda", wide, "float32")


@pytest.mark.parametrize(
    ("capability", "name", "words"),
    [((9, 0), "bfloat16", "9.0 multiplies it"), ((7, 5), "float32", "7.5 multiplies no bfloat16")],
)
def test_a_device_computes_in_bfloat16_where_it_has_it(
    capability: tuple[int, int], name: str, words: str
) -> None:
    choice = choose_dtype("auto", frozenset(), capability)
    assert choice.name == name
    assert words in choice.reason
    assert choose_dtype("float32", frozenset(), capability).reason == "asked for"
    for narrow in ("int8", "q4"):
        asked = choose_dtype(narrow, frozenset(), capability)
        assert (asked.name, asked.dtype) == (narrow, choice.dtype)


def test_a_base_in_4_bits_is_widened_on_a_device_only_where_it_fits_so() -> None:
    config = replace(LLAMA, hidden=512, intermediate=2048, heads=32, vocab_size=3200)
    weights = replace(random_weights(config), in_4_bits=True)
    asked = EngineConfig(Path("base"), kernels="cuda", kv_tokens=1024, max_adapters=1)
    chosen = {
        room: choose_machine(asked, weights, Accelerator(HostDevice(room << 20), REFERENCES)).dtype
        for room in (512, 90)
    }
    assert chosen[512].name == "float32"
    assert chosen[90].name == "q4"
    assert "does not fit the device in float32" in chosen[90].reason
    plain = replace(weights, in_4_bits=False)
    device = Accelerator(HostDevice(90 << 20), REFERENCES)
    assert choose_machine(asked, plain, device).dtype.name == "float32"
    with pytest.raises(ModelError, match="linears lie in 4 bits"):
        choose_machine(replace(asked, dtype="q4"), plain, device)


def test_info_shows_the_device_and_how_its_memory_is_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(tmp_path)
    monkeypatch.setattr(choose, "_open_device", lambda: Accelerator(HostDevice(), REFERENCES))
    lines = dict(
        line.split(maxsplit=1)
        for line in describe(tmp_path, EngineConfig(tmp_path, kv_tokens=4096))
    )
    assert lines["device"] == "host memory: 1024 of 1024 MiB free"
    assert lines["dtype"].startswith("float32: a device of capability 0.0")
    assert lines["memory"].startswith("room for keys and values of 4096 tokens, ")
    assert "MiB for adapters in" in lines["memory"]


def test_what_an_operator_leaves_open_suits_the_machine() -> None:
    processor, device = (
        settled(EngineConfig(Path(), max_running=7), on_device) for on_device in (False, True)
    )
    for each in (processor, device):
        assert (each.kv_tokens, each.host_cache_bytes, each.slot_bytes) == (
            0,
            0,
            0,
        ), "divided when the base is known"
    assert (processor.max_adapters, device.max_adapters) == (64, 0)
    assert processor.max_running == device.max_running == 7
    assert device.prompt_step_tokens > processor.prompt_step_tokens
    assert (processor.beside_tokens, device.beside_tokens) == (32, 512)
    assert (
        settled(EngineConfig(Path(), step_tokens=90), False, frozenset({"amx_bf16"})).beside_tokens
        == 90
    )


# --- memory that runs out ---


def test_a_base_that_does_not_fit_is_refused_with_what_it_needs_and_what_is_free() -> None:
    with pytest.raises(
        ModelError,
        match=r"the base needs \d+ bytes of host memory .* 1000000 are free; .*--kernels native",
    ):
        open_lab(HostDevice(1_000_000), adapters=0)


def test_memory_that_runs_out_while_the_base_is_loaded_is_the_same_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 32.00 MiB.")

    monkeypatch.setattr(executor, "Launches", run_out)
    with pytest.raises(ModelError, match=r"the base needs .* Tried to allocate 32"):
        open_lab(HostDevice(), adapters=0)


def test_kernels_that_do_not_run_on_a_device_are_no_riddle() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("out of resource: shared memory, Required: 180224, Hardware limit: 101376")

    with pytest.raises(
        ModelError,
        match=r"do not run on host memory \(ValueError: out of resource.*--kernels native",
    ):
        open_lab(HostDevice(), replace(REFERENCES, attend_prefill=refuse), adapters=0)


def test_an_adapter_larger_than_all_the_room_is_refused_by_name() -> None:
    lab = open_lab(HostDevice(), adapters=0, room_bytes=60_000)
    answer = lab.hold(FIRST, Path("60"))
    assert "bytes of a slot's memory, of which" in answer.message  # type: ignore[union-attr]
    lab.close()


class NoGraphs(HostDevice):
    def capture(self, work: Work) -> Work:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_what_cannot_be_captured_runs_launch_by_launch_and_says_so_once(
    capfd: pytest.CaptureFixture[str], right: dict[bytes | None, list[int]]
) -> None:
    lab = open_lab(NoGraphs())
    for number, adapter in enumerate((None, FIRST, SECOND)):
        assert lab.run(ask(number, adapter))[number] == right[adapter]
    said = [line for line in capfd.readouterr().err.splitlines() if "graph of 1 rows" in line]
    assert len(said) == 2, "one line for each of the two kinds of graph"
    lab.close()


class Connection:
    """The daemon's end of an engine that serves in a thread."""

    def __init__(self, lab: Lab) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(DEADLINE_S)
        self._frames = MessageDecoder[FromEngine](FromEngine)
        self.status: int | None = None
        server = Server(theirs, lab.done)  # type: ignore[arg-type]
        self._thread = threading.Thread(
            target=lambda: setattr(self, "status", server.serve(lab.engine, lab.built.ready)),
            daemon=True,
        )
        self._thread.start()
        assert isinstance(self.receive(), Ready)

    def send(self, message: Submit) -> None:
        self._socket.sendall(encode_frames([message]))

    def receive(self) -> FromEngine:
        while (message := self._frames.next_message()) is None:
            data = self._socket.recv(READ_BYTES)
            assert data, "the engine closed the socket"
            self._frames.feed(data)
        return message

    def end_of(self, request_id: int) -> Finished | Failed:
        while True:
            message = self.receive()
            if isinstance(message, Finished | Failed) and message.request_id == request_id:
                return message

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._thread.join(DEADLINE_S)


def failing(kind: type[Exception], text: str, wanted: list[bool]) -> Kernels:
    """Kernels of which one fails when `wanted[0]` says so, once."""

    def attend(*arguments: object, **named: object) -> None:
        if wanted[0]:
            wanted[0] = False
            raise kind(text)
        REFERENCES.attend_prefill(*arguments, **named)

    return replace(REFERENCES, attend_prefill=attend)


def test_memory_that_runs_out_in_a_step_fails_its_requests_as_busy_and_the_engine_goes_on(
    right: dict[bytes | None, list[int]],
) -> None:
    wanted = [False]
    lab = open_lab(
        HostDevice(),
        failing(torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2 GiB", wanted),
    )
    with Connection(lab) as daemon:
        for number in range(5):  # more often than crashes would be forgiven
            wanted[0] = True
            daemon.send(ask(2 * number, FIRST))
            failed = daemon.end_of(2 * number)
            assert isinstance(failed, Failed)
            assert failed.code == "busy"
            assert "no memory left" in failed.message
            assert "retry" in failed.message
        daemon.send(ask(99, FIRST))
        assert isinstance(daemon.end_of(99), Finished)
    assert daemon.status == 0
    lab.close()


# --- a device that is gone ---


def test_a_lost_device_ends_the_process_with_its_own_code(
    capfd: pytest.CaptureFixture[str],
) -> None:
    wanted = [False]
    lab = open_lab(
        HostDevice(),
        failing(RuntimeError, "CUDA error: an illegal memory access was encountered\nmore", wanted),
    )
    with Connection(lab) as daemon:
        wanted[0] = True
        daemon.send(ask(1, FIRST))
        daemon._thread.join(DEADLINE_S)
        assert daemon.status == 5
    assert (
        "the device is lost: CUDA error: an illegal memory access was encountered; this process"
        " ends" in capfd.readouterr().err
    )
    lab.close()


def test_a_copy_that_fails_ends_the_process_too() -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    lab = open_lab(LateDevice(fail))
    lab.engine.handle(ask(1, FIRST))
    lab.step()
    with pytest.raises(DeviceLost, match="unspecified launch failure"):
        lab.engine.receive(lab.done.get(timeout=DEADLINE_S))
    lab.close()


def test_our_own_bugs_are_no_faults_of_the_device() -> None:
    assert fault_of(ValueError("CUDA error")) is None
    assert fault_of(RuntimeError("shapes do not match")) is None
    assert isinstance(
        fault_of(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")),
        OutOfDeviceMemory,
    )
    assert isinstance(fault_of(RuntimeError("CUDA error: out of memory")), OutOfDeviceMemory)
    assert isinstance(
        fault_of(RuntimeError("Triton Error [CUDA]: out of memory")), OutOfDeviceMemory
    )
    assert isinstance(
        fault_of(RuntimeError("Triton Error [CUDA]: device-side assert triggered")), DeviceLost
    )
    while_capturing = RuntimeError(
        "CUDA error: operation failed due to a previous error during capture"
    )
    while_capturing.__context__ = torch.OutOfMemoryError("CUDA out of memory.")
    assert isinstance(fault_of(while_capturing), OutOfDeviceMemory)


# --- a device that hangs ---


def test_the_watchdog_barks_past_the_deadline_only() -> None:
    now = [0.0]
    heard = SimpleQueue[str]()
    dog = Watchdog(60.0, heard.put, lambda: now[0])
    with dog.over("a step"):
        now[0] = 60.0
        assert not dog.look()
        now[0] = 61.0
        assert dog.look()
    now[0] = 1000.0
    assert not dog.look()
    assert "a step has not ended in 60 s" in heard.get(timeout=DEADLINE_S)
    dog.close()


HANGING = """
import socket, sys, threading
from queue import SimpleQueue
from engine.cuda.device import HostDevice
from tests.engine.gpu.test_device_faults import serve_hanging
sys.exit(serve_hanging(int(sys.argv[1])))
"""


class HangingDevice(HostDevice):
    """Never reaches what it is asked to wait for, once `hangs`."""

    hangs = False

    def mark(self) -> Event:
        return _LateCopy(threading.Event().wait if self.hangs else lambda: None, [])  # type: ignore[arg-type]


def serve_hanging(fd: int) -> int:
    """The process that the test below starts."""
    device = HangingDevice()
    inbox = SimpleQueue[Any]()
    config = EngineConfig(Path("memory"), dtype="float32", kv_tokens=2048)
    built = assemble(
        random_weights(LLAMA),
        config,
        inbox.put,
        Accelerator(device, REFERENCES, step_deadline_s=1.0),
        load=RandomAdapters(LLAMA),
    )
    device.hangs = True
    return Server(socket.socket(fileno=fd), inbox).serve(built.engine, built.ready)


def test_a_step_that_hangs_ends_the_process_with_a_clear_word() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
    )
    theirs.close()
    try:
        assert ours.recv(READ_BYTES)  # Ready
        ours.sendall(encode_frames([ask(1)]))
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == HANGS
        assert "engine: a step has not ended in 1 s: the device hangs" in said
        assert not ours.recv(READ_BYTES)
    finally:
        process.kill()
        ours.close()


def size_of(number: int) -> int:
    """Bytes of an adapter on the device."""
    packed = RandomAdapters(LLAMA)(
        (Source(Path(str(number)) / "config", Path(str(number)) / "weights"),)
    ).packed
    return packed.size_bytes


def _wait(gate: threading.Event) -> None:
    assert gate.wait(DEADLINE_S)


def _acquire(gate: threading.Semaphore) -> None:
    assert gate.acquire(timeout=DEADLINE_S)

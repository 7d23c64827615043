"""What the engine says of its memory, beside what the system says of its process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from engine.messages import AdapterHeld, Finished, GetStats, MemoryUse, Ready, Stats
from engine.usage import resident_bytes

from .processes import Daemon
from .worlds import hold, make_base, some_tokens, submit, write_adapter

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a device it is the device's memory"
)
MIB = 1 << 20
SLACK = 32 * MIB
"""What may lie between two figures: holes between allocations, tables of pages, scratch."""
HOLES = 96 * MIB
"""What loading may leave besides the base: a C library keeps what was read and freed as it likes; 2
to 65 MiB were seen.
"""
SHAPE = {
    "vocab_size": 65536,
    "hidden_size": 72,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 3,
}
"""36 MiB of embedding and head, 24 KiB of keys and values a token, in float32."""
NUM_ADAPTERS = 6
RANK = 768
NUM_REQUESTS = 4
PROMPT_TOKENS = 900


def use_of(daemon: Daemon) -> MemoryUse:
    """What it says; its parts add up."""
    daemon.send(GetStats())
    stats = daemon.receive_until(Stats)[-1]
    assert isinstance(stats, Stats)
    use = stats.memory
    assert use is not None
    parts = use.base_bytes + use.adapter_bytes + use.kv_bytes + use.work_bytes + use.process_bytes
    assert abs(parts - use.total_bytes) <= SLACK
    assert use.place == "processor"
    return use


def test_the_parts_of_the_engines_memory_grow_as_its_process_does(tmp_path: Path) -> None:
    make_base(tmp_path / "base", **SHAPE)
    for index in range(NUM_ADAPTERS):
        write_adapter(tmp_path / str(index), index, RANK, ("mlp.gate_proj", "mlp.down_proj"))
    with Daemon(tmp_path / "base", "--dtype", "float32", "--kv-tokens", "8192") as daemon:
        assert isinstance(daemon.receive(), Ready)
        check_growth(daemon, tmp_path)


def check_growth(daemon: Daemon, folder: Path) -> None:
    empty = use_of(daemon)
    size_bytes = sum(one.stat().st_size for one in (folder / "base").glob("*.safetensors"))
    assert size_bytes - SLACK <= empty.base_bytes <= size_bytes + HOLES
    assert (empty.adapter_bytes, empty.kv_bytes < MIB) == (0, True)

    held = 0
    for index in range(NUM_ADAPTERS):
        daemon.send(hold(bytes([index]) * 32, folder / str(index)))
        verdict = daemon.receive()
        assert isinstance(verdict, AdapterHeld), verdict
        held += verdict.size_bytes
    for index in range(NUM_REQUESTS):
        tokens = some_tokens(PROMPT_TOKENS, index)
        daemon.send(submit(index, tokens, bytes([index]) * 32, tokens=2, credit=2))
    for _ in range(NUM_REQUESTS):
        daemon.receive_until(Finished)
    full = use_of(daemon)
    assert full.adapter_bytes == held > 20 * MIB
    assert full.kv_bytes >= NUM_REQUESTS * PROMPT_TOKENS * 24 * 1024
    grown = full.adapter_bytes + full.kv_bytes - empty.adapter_bytes - empty.kv_bytes
    assert abs(full.total_bytes - empty.total_bytes - grown) <= SLACK


def test_resident_memory_is_what_the_system_says() -> None:
    told = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert told is not None
    assert abs(resident_bytes() - int(told[1]) * 1024) <= MIB

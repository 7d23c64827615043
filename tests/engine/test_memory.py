"""What a process may have is read from whatever form the system gives it in, and divided so that it
suffices.
"""

from __future__ import annotations

from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.config import (
    MAX_HOST_CACHE_BYTES,
    WANTED_KV_TOKENS,
    EngineConfig,
    choose_dtype,
    settled,
)
from engine.errors import BadAdapter, ModelError
from engine.executor.memory import (
    MARGIN,
    MIN_KV_TOKENS,
    RESERVE_BYTES,
    Demand,
    Division,
    demand_of,
    divide,
)
from engine.info import describe
from engine.lora.adapter import bytes_to_read, load_adapter, read_header
from engine.lora.layout import Loaded
from engine.lora.loader import AdapterLoader, LoadDone, LoadJob, Source, Sources
from engine.memory import (
    UNLIMITED_BYTES,
    Free,
    Mount,
    folders_above,
    free_memory,
    lies_in_memory,
    parse_available,
    parse_mounts,
    parse_paths,
    parse_version_1,
    parse_version_2,
)
from engine.messages import Failed
from engine.model.weights import open_weights

from .worlds import Lab, make_base, some_tokens, submit, write_adapter

GIB = 1 << 30
sizes = st.integers(0, 1 << 44)
names = st.text(
    st.characters(
        codec="utf-8", exclude_characters="\n\r:/, \\\x00\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    ),
    min_size=1,
    max_size=8,
)


def write(root: Path, **texts: str | int) -> None:
    """Files named as keys, in which `__` is a slash and `_O_` a dot."""
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("_O_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@given(sizes, sizes, sizes, sizes)
def test_a_group_of_version_1_leaves_its_limit_less_what_is_used_and_not_idle(
    limit: int, used: int, active: int, inactive: int
) -> None:
    files = {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{used}\n"}
    files["memory.stat"] = f"cache 7\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n"
    group = parse_version_1(lambda name: files.get(name, ""))
    assert group is not None
    assert group.free_bytes == max(0, limit - max(0, used - active - inactive))


@given(st.none() | sizes, st.none() | sizes, sizes, sizes)
def test_a_group_of_version_2_is_limited_by_the_lower_of_its_marks(
    most: int | None, high: int | None, used: int, idle: int
) -> None:
    files = {"memory.current": f"{used}\n", "memory.stat": f"anon 5\ninactive_file {idle}\n"}
    files |= {
        name: "max\n" if value is None else f"{value}\n"
        for name, value in (("memory.max", most), ("memory.high", high))
    }
    group = parse_version_2(lambda name: files.get(name, ""))
    assert group is not None
    assert group.limit_bytes == min(
        (limit for limit in (most, high) if limit is not None), default=None
    )
    assert (group.free_bytes is None) == (most is None and high is None)


def test_no_limit_of_version_1_is_none() -> None:
    files = {"memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": "1\n"}
    group = parse_version_1(lambda name: files.get(name, ""))
    assert group is not None
    assert int(files["memory.limit_in_bytes"]) > UNLIMITED_BYTES
    assert group.free_bytes is None


@given(st.text())
def test_any_text_is_parsed_or_left_out(text: str) -> None:
    parse_available(text)
    parse_paths(text)
    parse_mounts(text)
    parse_version_1(lambda _: text)
    parse_version_2(lambda _: text)


@given(st.lists(names, max_size=5), st.lists(names, max_size=3))
def test_the_groups_around_one_are_those_that_its_mount_shows(
    below: list[str], above: list[str]
) -> None:
    root = "/" + "/".join(above)
    mount = Mount("0:1", root, "/sys/fs/cgroup", "cgroup2", options=frozenset())
    found = folders_above(mount, "/" + "/".join([*above, *below]))
    if ".." in (*above, *below) or "." in (*above, *below):
        return
    assert found[0] == "/".join(["/sys/fs/cgroup", *below])
    assert found[-1] == "/sys/fs/cgroup"
    assert len(found) == 1 + len(below)


def test_a_group_outside_of_what_a_container_sees_is_the_top_of_its_mount() -> None:
    mount = Mount("0:1", "/docker/1", "/sys/fs/cgroup", "cgroup", options=frozenset({"memory"}))
    assert (
        folders_above(mount, "/../other")
        == folders_above(mount, "/elsewhere")
        == ["/sys/fs/cgroup"]
    )


def test_the_tightest_of_the_system_and_all_groups_counts(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo="MemTotal: 9 kB\nMemAvailable:    4194304 kB")
    assert free_memory(tmp_path) == Free(4 * GIB, "the system has no more")
    write(
        tmp_path,
        proc__self__mountinfo="31 23 0:41 / /cg rw - cgroup2 cgroup2 rw",
        proc__self__cgroup="0::/slice/unit",
    )
    write(
        tmp_path,
        cg__slice__memory_O_max=3 * GIB,
        cg__slice__memory_O_current=GIB,
        cg__slice__memory_O_stat=f"active_file {GIB // 2}",
    )
    write(tmp_path, cg__slice__unit__memory_O_max="max", cg__slice__unit__memory_O_current=GIB)
    free = free_memory(tmp_path)
    assert free.free_bytes == 5 * GIB // 2
    assert free.reason == "/cg/slice limits it to 3072 MiB"
    write(
        tmp_path,
        proc__self__mountinfo="31 23 0:41 / /cg1 rw - cgroup cgroup rw,memory",
        proc__self__cgroup="4:cpu,memory:/unit\n0::/",
    )
    write(
        tmp_path, cg1__unit__memory_O_limit_in_bytes=GIB, cg1__unit__memory_O_usage_in_bytes=2 * GIB
    )
    assert free_memory(tmp_path).free_bytes == 0
    assert free_memory(tmp_path / "nothing").free_bytes is None


def test_a_file_system_in_memory_is_told_from_a_disk(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    name = f"{device >> 8 & 0xFFF}:{device & 0xFF | device >> 12 & 0xFFF00}"
    for kind, expected in (("tmpfs", True), ("ext4", False)):
        write(tmp_path, proc__self__mountinfo=f"31 23 {name} / /somewhere rw - {kind} none rw")
        assert lies_in_memory(tmp_path, tmp_path) is expected


# --- division ---

demands = st.builds(
    Demand,
    base_bytes=st.integers(1, 64 * GIB),
    loading_bytes=st.integers(1, 4 * GIB),
    work_bytes=st.integers(1, GIB),
    token_bytes=st.integers(1, 2 << 20),
    adapter_bytes=st.integers(1, GIB),
    reading_bytes=st.integers(1, 2 * GIB),
)


@given(demands, st.integers(0, 1 << 38), st.sampled_from((0, 512, 4096, 100_000)))
def test_what_is_handed_out_fits_and_suffices_or_is_refused_by_name(
    demand: Demand, free: int, kv_tokens: int
) -> None:
    try:
        division = divide(demand, Free(free, "why"), kv_tokens)
    except ModelError as error:
        refusal = str(error)
    else:
        check_division(division, demand, free, kv_tokens)
        return
    assert "(why)" in refusal
    assert any(name in refusal for name in ("--base", "--kv-tokens"))


def check_division(division: Division, demand: Demand, free: int, kv_tokens: int) -> None:
    parts = (
        division.host_cache_bytes,
        division.slot_bytes,
        division.untaken_bytes,
        division.reading_bytes,
    )
    handed_out = (
        demand.base_bytes + demand.work_bytes + division.kv_tokens * demand.token_bytes + sum(parts)
    )
    assert handed_out + RESERVE_BYTES <= free * (1 - MARGIN) + 1
    assert division.kv_tokens == kv_tokens if kv_tokens else division.kv_tokens >= MIN_KV_TOKENS
    assert (
        min(division.slot_bytes, division.host_cache_bytes, division.untaken_bytes)
        >= demand.adapter_bytes
    )
    assert division.reading_bytes >= demand.reading_bytes


@given(demands)
def test_plenty_gives_what_is_wanted_and_nobody_who_says_how_much_is_plenty(demand: Demand) -> None:
    for free in (Free(1 << 44, "why"), Free(None, "why")):
        division = divide(demand, free)
        assert (division.kv_tokens, division.host_cache_bytes) == (
            WANTED_KV_TOKENS,
            MAX_HOST_CACHE_BYTES,
        )


@given(demands, st.integers(0, 1 << 38), st.integers(0, 1 << 34))
def test_more_memory_never_gives_less(demand: Demand, free: int, more: int) -> None:
    try:
        small = divide(demand, Free(free, ""))
    except ModelError:
        return
    large = divide(demand, Free(free + more, ""))
    assert large.kv_tokens >= small.kv_tokens


def test_info_shows_the_division_and_a_number_that_is_too_large_is_refused_with_one_that_is_not(
    tmp_path: Path,
) -> None:
    make_base(tmp_path)
    described = describe(tmp_path, EngineConfig(tmp_path, kernels="torch", kv_tokens=4096))
    line = next(line for line in described if line.startswith("memory"))  # what follows is measured
    assert line.startswith("memory     room for keys and values of 4096 tokens, for adapters ")
    config = settled(EngineConfig(tmp_path), on_device=False)
    demand = demand_of(
        open_weights(tmp_path).config,
        choose_dtype("float32", frozenset()),
        512,
        config.max_waiting_tokens,
    )
    with pytest.raises(
        ModelError,
        match=r"--kv-tokens 1000000000 takes \d+ MiB .* choose at most --kv-tokens (\d+),",
    ) as caught:
        divide(demand, Free(GIB, "why"), 1_000_000_000)
    most = int(str(caught.value).rpartition("--kv-tokens ")[2].partition(",")[0])
    assert divide(demand, Free(GIB, "why"), most).kv_tokens == most
    with pytest.raises(ModelError, match="--kv-tokens"):
        divide(demand, Free(GIB, "why"), most + 1)


# --- bounds that the division relies on ---


def test_an_adapter_that_takes_more_to_read_than_is_kept_for_it_is_refused_before_it_is_read(
    tmp_path: Path,
) -> None:
    make_base(tmp_path / "base")
    write_adapter(tmp_path / "law", 1)
    weights = open_weights(tmp_path / "base")
    files = [
        tmp_path / "law" / name for name in ("adapter_config.json", "adapter_model.safetensors")
    ]
    needed = bytes_to_read(read_header(files[1]), torch.float32)
    packed = load_adapter(files[0], files[1], weights, torch.float32, room_bytes=needed)
    assert packed.size_bytes < needed
    with pytest.raises(
        BadAdapter, match=f"takes {needed} bytes of memory, of which {needed - 1} are kept"
    ):
        load_adapter(files[0], files[1], weights, torch.float32, room_bytes=needed - 1)


def test_the_loader_waits_until_what_it_has_read_is_taken(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    write_adapter(tmp_path / "law", 1)
    config, file = (
        tmp_path / "law" / name for name in ("adapter_config.json", "adapter_model.safetensors")
    )
    packed = load_adapter(config, file, open_weights(tmp_path / "base"), torch.float32)
    done: SimpleQueue[LoadDone] = SimpleQueue()
    begun: SimpleQueue[Sources] = SimpleQueue()

    def load(sources: Sources) -> Loaded:
        begun.put(sources)
        return Loaded(packed, b"digest")

    loader = AdapterLoader(load, done.put, 2 * packed.size_bytes)
    for index in range(4):
        loader.submit(LoadJob(bytes([index]), (Source(config, file),)))
    outcomes = [done.get(timeout=60), done.get(timeout=60)]
    for _ in range(2):
        with pytest.raises(Empty):
            done.get(timeout=0.05)
        outcomes[0].taken()
        outcomes = [outcomes[1], done.get(timeout=60)]
    loader.close()
    assert begun.qsize() == 4


def test_a_queue_of_long_prompts_is_busy_before_it_has_its_most_requests(tmp_path: Path) -> None:
    make_base(tmp_path)
    lab = Lab(tmp_path, max_waiting_tokens=1000)
    for number in range(5):
        lab.engine.handle(submit(number, some_tokens(300, number), tokens=2))
    lab.collect()
    assert [
        (message.request_id, message.code)
        for message in lab.messages
        if isinstance(message, Failed)
    ] == [(3, "busy"), (4, "busy")]
    lab.drain()
    assert lab.run(submit(9, some_tokens(300, 9), tokens=2))[9]

"""Adapters that left memory come back as they were packed, and only while their files are what they
were.
"""

from __future__ import annotations

import os
import threading
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch

from engine.errors import BadAdapter
from engine.lora import held
from engine.lora.layout import PackedAdapter
from engine.lora.loader import Source, Sources
from engine.lora.mixing import load_sources
from engine.lora.spill import Spill
from engine.messages import Finished
from engine.model.weights import open_weights

from .worlds import Lab, make_base, some_tokens, submit, write_adapter


class Counting:
    def __init__(self, base: Path) -> None:
        self._base = open_weights(base)
        self.count = 0

    def __call__(self, sources: Sources) -> PackedAdapter:
        self.count += 1
        return load_sources(sources, self._base, torch.bfloat16)


@pytest.fixture
def loader(tmp_path: Path) -> Counting:
    make_base(tmp_path / "base")
    for index in range(3):
        write_adapter(tmp_path / str(index), index)
    return Counting(tmp_path / "base")


def files(folder: Path) -> tuple[Sources]:
    return ((Source(folder / "adapter_config.json", folder / "adapter_model.safetensors"),),)


def test_a_second_load_reads_what_the_first_packed(tmp_path: Path, loader: Counting) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    first = [spill.load(*files(tmp_path / str(index))) for index in range(3)]
    again = [spill.load(*files(tmp_path / str(index))) for index in range(3)]
    assert loader.count == 3
    for a, b in zip(first, again, strict=True):
        assert (a.packed.layout, a.packed.rank, a.digest) == (
            b.packed.layout,
            b.packed.rank,
            b.digest,
        )
        assert a.packed.digest() == b.packed.digest() == b.digest
        assert b.packed.blob.data_ptr() % 64 == 0


def test_changed_files_are_parsed_anew(tmp_path: Path, loader: Counting) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    before = spill.load(*files(tmp_path / "0"))
    write_adapter(tmp_path / "0", 9)
    os.utime(files(tmp_path / "0")[0][0].weights_path, ns=(1, 1))
    after = spill.load(*files(tmp_path / "0"))
    assert loader.count == 2
    assert before.digest != after.digest


def test_a_full_spill_begins_again_and_a_tiny_one_keeps_nothing(
    tmp_path: Path, loader: Counting
) -> None:
    size = loader(*files(tmp_path / "0")).size_bytes
    spill = Spill(loader, tmp_path, 2 * size)
    expected = [loader(*files(tmp_path / str(index))).digest() for index in range(3)]
    for turn in range(6):
        assert spill.load(*files(tmp_path / str(turn % 3))).packed.digest() == expected[turn % 3]
    none = Spill(loader, tmp_path, 1)
    before = loader.count
    assert [none.load(*files(tmp_path / "0")).digest for _ in range(2)] == expected[:1] * 2
    assert loader.count == before + 2


def test_a_refused_adapter_is_refused_each_time(tmp_path: Path, loader: Counting) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    files(tmp_path / "1")[0][0].config_path.write_text("{}")
    for _ in range(2):
        with pytest.raises(BadAdapter, match="peft_type"):
            spill.load(*files(tmp_path / "1"))


def test_nothing_is_left_on_disk(tmp_path: Path, loader: Counting) -> None:
    folder = tmp_path / "spill"
    spill = Spill(loader, folder, 1 << 20)
    spill.load(*files(tmp_path / "0"))
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_does_not_keep_the_engine_from_starting(
    tmp_path: Path, loader: Counting
) -> None:
    (tmp_path / "file").touch()
    spill = Spill(loader, tmp_path / "file" / "below", 1 << 20)
    assert [spill.load(*files(tmp_path / "0")).packed.rank for _ in range(2)] == [4, 4]
    assert loader.count == 1


def test_nothing_is_remembered_where_files_are_memory_or_a_disk_takes_half(
    tmp_path: Path, loader: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = Spill(loader, tmp_path, 1 << 20, lambda _: True)
    on_disk = Spill(loader, tmp_path, 1 << 20)
    monkeypatch.setattr(os, "pwrite", lambda _file, data, _at: len(data) // 2)
    for spill in (in_memory, on_disk):
        assert (
            spill.load(*files(tmp_path / "0")).digest == spill.load(*files(tmp_path / "0")).digest
        )
    assert loader.count == 4


def test_what_was_packed_once_is_recalled_without_the_loader(
    tmp_path: Path, loader: Counting
) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    paths = files(tmp_path / "0")
    assert spill.recall(*paths, 1 << 20) is None  # nobody has packed it yet
    first = spill.load(*paths)
    recalled = spill.recall(*paths, first.packed.size_bytes)
    assert recalled is not None
    assert (recalled.packed.layout, recalled.packed.rank, recalled.packed.digest()) == (
        first.packed.layout,
        first.packed.rank,
        first.digest,
    )
    assert spill.recall(*paths, first.packed.size_bytes - 1) is None
    write_adapter(tmp_path / "0", 9)
    weights_path = paths[0][0].weights_path
    os.utime(weights_path, ns=(1, 1))
    assert spill.recall(*paths, 1 << 20) is None
    weights_path.unlink()
    assert spill.recall(*paths, 1 << 20) is None
    assert loader.count == 1


@pytest.mark.parametrize(
    "what", ["nothing cached", "half cached", "a file system that always waits"]
)
def test_a_recall_waits_for_no_disk(
    tmp_path: Path, loader: Counting, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    paths = files(tmp_path / "0")
    expected = spill.load(*paths).digest
    preadv = os.preadv

    def read(file: int, rooms: list[memoryview], offset: int, flags: int = 0) -> int:
        if not flags:
            return preadv(file, rooms, offset)
        if what == "half cached":
            return preadv(file, [rooms[0][: len(rooms[0]) // 2]], offset, flags)
        raise (
            BlockingIOError if what == "nothing cached" else OSError(95, "Operation not supported")
        )

    monkeypatch.setattr(os, "preadv", read)
    assert spill.recall(*paths, 1 << 20) is None
    assert spill.load(*paths).packed.digest() == expected


def test_a_recall_does_not_wait_while_the_loader_writes(
    tmp_path: Path, loader: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    spill.load(*files(tmp_path / "0"))
    pwrite = os.pwrite
    writing = threading.Event()
    go_on = threading.Event()

    def slow(file: int, data: memoryview, offset: int) -> int:
        writing.set()
        assert go_on.wait(60)
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    thread = threading.Thread(target=lambda: spill.load(*files(tmp_path / "1")))
    thread.start()
    assert writing.wait(60)
    assert spill.recall(*files(tmp_path / "0"), 1 << 20) is None
    go_on.set()
    thread.join(60)
    assert spill.recall(*files(tmp_path / "0"), 1 << 20) is not None


def test_what_is_recalled_while_places_are_written_over_is_whole(
    tmp_path: Path, loader: Counting
) -> None:
    """The spill has room for two of three, so each load of the loader's thread may write over what
    the other thread reads.
    """
    expected = [loader(*files(tmp_path / str(index))).digest() for index in range(3)]
    spill = Spill(loader, tmp_path, 2 * loader(*files(tmp_path / "0")).size_bytes)
    thread = threading.Thread(
        target=lambda: [
            spill.load(*files(tmp_path / str(index))) for index in islice(cycle(range(3)), 150)
        ]
    )
    thread.start()
    recalled = 0
    while thread.is_alive():
        for index in range(3):
            found = spill.recall(*files(tmp_path / str(index)), 1 << 20)
            if found is not None:
                recalled += 1
                assert found.packed.digest() == found.digest == expected[index]
    assert recalled > 0


def open_lab(tmp_path: Path, count: int) -> Lab:
    """Adapters 0 to count - 1 are held, and host memory has room for the last one only."""
    lab = Lab(tmp_path / "base", host_cache_bytes=1, max_adapters=1)
    for index in range(count):
        lab.hold(bytes([index]) * 32, tmp_path / str(index))
    return lab


def test_an_adapter_that_left_memory_answers_in_the_step_that_follows(
    tmp_path: Path, loader: Counting
) -> None:
    lab = open_lab(tmp_path, 3)
    for turn in range(6):
        lab.engine.handle(submit(turn, some_tokens(9, turn), bytes([turn % 3]) * 32, tokens=1))
        assert lab.step()
        assert isinstance(lab.end(turn), Finished)
    assert lab.done.empty()
    lab.close()


def test_between_two_steps_no_more_is_recalled_than_takes_a_moment(
    tmp_path: Path, loader: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 * loader(*files(tmp_path / "0")).size_bytes  # the engine's are float32
    monkeypatch.setattr(held, "RECALL_BYTES", int(1.5 * size))
    lab = open_lab(tmp_path, 3)
    lab.step()
    for index in range(2):
        lab.engine.handle(submit(index, some_tokens(9, index), bytes([index]) * 32, tokens=1))
    lab.step()
    assert isinstance(lab.end(0), Finished)
    lab.engine.receive(lab.done.get(timeout=60))  # the other one went by the loader's thread
    lab.drain()
    assert isinstance(lab.end(1), Finished)
    lab.close()


def test_memory_of_what_was_recalled_is_used_again_once_nobody_holds_it(
    tmp_path: Path, loader: Counting
) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    expected = [spill.load(*files(tmp_path / str(index))).digest for index in range(3)]

    def recall(index: int) -> PackedAdapter:
        found = spill.recall(*files(tmp_path / str(index)), 1 << 20)
        assert found is not None
        return found.packed

    first = recall(0)
    second = recall(1)
    assert first.blob.data_ptr() != second.blob.data_ptr()
    address = first.blob.data_ptr()
    del first
    third = recall(2)
    assert third.blob.data_ptr() == address
    assert [third.digest(), second.digest()] == [expected[2], expected[1]]


def test_adapters_of_one_shape_share_their_layout(tmp_path: Path, loader: Counting) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    loaded = [spill.load(*files(tmp_path / str(index))).packed.layout for index in range(3)]
    recalled = spill.recall(*files(tmp_path / "0"), 1 << 20)
    assert recalled is not None
    assert all(layout is recalled.packed.layout for layout in loaded)

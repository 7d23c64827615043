"""Adapters that left memory come back as they were packed, and only while their files are what they were."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from engine.errors import AdapterError
from engine.lora.adapter import load_adapter
from engine.lora.layout import PackedAdapter
from engine.lora.spill import Spill
from engine.model.weights import open_weights

from .worlds import make_base, write_adapter


class Counting:
    def __init__(self, base: Path) -> None:
        self._base = open_weights(base)
        self.count = 0

    def __call__(self, config_path: Path, weights_path: Path) -> PackedAdapter:
        self.count += 1
        return load_adapter(config_path, weights_path, self._base, torch.bfloat16)


@pytest.fixture
def loader(tmp_path: Path) -> Counting:
    make_base(tmp_path / "base")
    for index in range(3):
        write_adapter(tmp_path / str(index), index)
    return Counting(tmp_path / "base")


def files(folder: Path) -> tuple[Path, Path]:
    return folder / "adapter_config.json", folder / "adapter_model.safetensors"


def test_a_second_load_reads_what_the_first_packed(tmp_path: Path, loader: Counting) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    first = [spill.load(*files(tmp_path / str(index))) for index in range(3)]
    again = [spill.load(*files(tmp_path / str(index))) for index in range(3)]
    assert loader.count == 3
    for a, b in zip(first, again, strict=True):
        assert (a.packed.layout, a.packed.rank, a.digest) == (b.packed.layout, b.packed.rank, b.digest)
        assert a.packed.digest() == b.packed.digest() == b.digest
        assert b.packed.blob.data_ptr() % 64 == 0


def test_changed_files_are_parsed_anew(tmp_path: Path, loader: Counting) -> None:
    spill = Spill(loader, tmp_path, 1 << 20)
    before = spill.load(*files(tmp_path / "0"))
    write_adapter(tmp_path / "0", 9)
    os.utime(files(tmp_path / "0")[1], ns=(1, 1))
    after = spill.load(*files(tmp_path / "0"))
    assert loader.count == 2
    assert before.digest != after.digest


def test_a_full_spill_begins_again_and_a_tiny_one_keeps_nothing(tmp_path: Path, loader: Counting) -> None:
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
    files(tmp_path / "1")[0].write_text("{}")
    for _ in range(2):
        with pytest.raises(AdapterError, match="peft_type"):
            spill.load(*files(tmp_path / "1"))


def test_nothing_is_left_on_disk(tmp_path: Path, loader: Counting) -> None:
    folder = tmp_path / "spill"
    spill = Spill(loader, folder, 1 << 20)
    spill.load(*files(tmp_path / "0"))
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_does_not_keep_the_engine_from_starting(tmp_path: Path, loader: Counting) -> None:
    (tmp_path / "file").touch()
    spill = Spill(loader, tmp_path / "file" / "below", 1 << 20)
    assert [spill.load(*files(tmp_path / "0")).packed.rank for _ in range(2)] == [4, 4]
    assert loader.count == 1


def test_nothing_is_remembered_where_files_are_memory_or_a_disk_takes_half(tmp_path: Path, loader: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = Spill(loader, tmp_path, 1 << 20, lambda _: True)
    on_disk = Spill(loader, tmp_path, 1 << 20)
    monkeypatch.setattr(os, "pwrite", lambda _file, data, _at: len(data) // 2)
    for spill in (in_memory, on_disk):
        assert spill.load(*files(tmp_path / "0")).digest == spill.load(*files(tmp_path / "0")).digest
    assert loader.count == 4

"""Whether an adapter on the disk is for this node's base, from two small parts of its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import ModelError
from node.catalogue.fitting import BaseShape, Fit, fit, load_base_shape
from tests.node.tiny import HIDDEN, LAYERS, make_adapter, make_base

BASE = BaseShape(("Tiny-1M-Instruct-Q4_K_M",), HIDDEN, LAYERS)


def stating(folder: Path, **fields: object) -> Path:
    path = make_adapter(folder, "law", 1) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


@pytest.mark.parametrize(
    "stated", ["", None, "org/Tiny-1M-Instruct", "/models/tiny-1m-instruct/", "Tiny-1M-Instruct"]
)
def test_an_adapter_for_this_base_fits(tmp_path: Path, stated: str | None) -> None:
    assert fit(stating(tmp_path / "law", base_model_name_or_path=stated), BASE) == Fit()


@pytest.mark.parametrize("stated", ["org/Tiny-1M", "org/Tiny-1M-Instruct-v2", "Other"])
def test_one_that_names_another_base_of_the_same_shape_is_doubtful(
    tmp_path: Path, stated: str
) -> None:
    found = fit(stating(tmp_path / "law", base_model_name_or_path=stated), BASE)
    assert not found.is_sure
    assert stated in found.reason
    assert BASE.name in found.reason


def test_what_does_not_fit_is_refused_in_one_line_that_says_why(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "law", "law", 1)
    assert "32 wide" in fit(folder, BaseShape(("wide",), 64, LAYERS)).reason
    assert "a layer 1" in fit(folder, BaseShape(("flat",), HIDDEN, 1)).reason
    dora = stating(tmp_path / "dora", init_lora_weights="pissa")
    assert "pissa" in fit(dora, BASE).reason
    (folder / "adapter_config.json").write_text("[")
    assert "JSON" in fit(folder, BASE).reason
    (folder / "adapter_config.json").unlink()
    assert "No such file" in fit(folder, BASE).reason


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 100,
        b"\x02" + bytes(7) + b"[]",
        b"\x09" + bytes(7) + b'{"a": {}}',
    ],
)
def test_weights_that_are_none_are_refused(tmp_path: Path, data: bytes) -> None:
    folder = make_adapter(tmp_path / "law", "law", 1)
    (folder / "adapter_model.safetensors").write_bytes(data)
    found = fit(folder, BASE)
    assert found.is_sure
    assert "no safetensors file" in found.reason


def test_a_pickle_is_named_with_its_mend(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "law", "law", 1)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "adapter_model.bin is not read; convert it" in fit(folder, BASE).reason


def test_a_base_in_a_hubs_cache_has_its_repositorys_name_too(tmp_path: Path) -> None:
    plain = make_base(tmp_path / "files")
    cached = make_base(tmp_path / "models--org--Tiny-1M" / "snapshots" / ("a" * 40))
    assert load_base_shape("Tiny", plain) == BaseShape(("Tiny",), HIDDEN, LAYERS)
    assert load_base_shape("aaaa", cached).names == ("Tiny-1M", "aaaa")
    (plain / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_base_shape("Tiny", plain)


def test_where_the_weights_are_not_here_the_name_alone_decides(tmp_path: Path) -> None:
    base = load_base_shape("Tiny", None)
    assert fit(stating(tmp_path / "law", base_model_name_or_path="org/tiny"), base) == Fit()
    other = fit(stating(tmp_path / "other", base_model_name_or_path="org/wide"), base)
    assert not other.is_sure

"""The tables of what is served are written from the code that decides it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from engine.lora import adapter_config
from engine.model import families, gguf_file, quantised_folder, rope

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def served() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("served", str(ROOT / "scripts" / "served"))
    spec = importlib.util.spec_from_loader("served", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_page_says_what_the_code_serves(served: ModuleType) -> None:
    page = (ROOT / "docs" / "usage.md").read_text()
    assert served.fill(page) == page, "write it anew: scripts/served"
    assert {found[1] for found in served.PART.findall(page)} == served.PARTS.keys()


def test_every_entry_of_the_code_s_tables_is_told(
    served: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "".join(part() for part in served.PARTS.values())
    for name in (
        *families.FAMILIES,
        *(each.gguf for each in families.GGUF_FAMILIES.values()),
        *rope.SCALINGS,
        *gguf_file.SERVED,
        *quantised_folder.METHODS,
        *adapter_config.UNSERVED,
    ):
        assert name in told, name
    more = {**families.FAMILIES, "falcon9": families.Family("falcon9", qk_norm=True)}
    monkeypatch.setattr(families, "FAMILIES", more)
    assert "| `falcon9` | `falcon9` | norms of q and k |" in served.tell_families()

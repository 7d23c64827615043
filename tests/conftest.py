"""What holds for every test: hypothesis judges what happens, not how long
it took beside other workers.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture
def gguf_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this test a GGUF file is parsed once and its names are mapped once.

    transformers does the one twice and the other for every module, which takes it a quarter of a
    minute.
    """
    import gguf

    for name in ("GGUFReader", "get_tensor_name_map"):
        monkeypatch.setattr(gguf, name, cache(getattr(gguf, name)))

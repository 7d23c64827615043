"""Books that stay are not walked through; what is thrown away later is still found."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from proofs.heap import loading_modules

PROGRAMME = """
import gc, weakref
from proofs.heap import settle_heap

class Thing: pass

books = [Thing() for _ in range(10_000)]
settle_heap()
assert gc.get_freeze_count() >= len(books)
knot = Thing()
knot.self = knot
gone = weakref.ref(knot)
del knot
assert gone() is not None
junk = []
for _ in range(30):  # enough that the collector looks by itself, at older ones too
    junk = [[] for _ in range(60_000)]
assert gone() is None, "a cycle that was made later was not found"
"""


def test_cycles_are_found_after_the_books_are_settled() -> None:
    subprocess.run([sys.executable, "-c", PROGRAMME], check=True, timeout=60)


def test_while_modules_are_loaded_nothing_is_collected_and_afterwards_it_is_again() -> None:
    try:
        with loading_modules():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count()
        with pytest.raises(ImportError), loading_modules():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()

"""Keeps Python's cycle collector away from books and modules that stay. Knows nothing of what is in
them.

A state of a million receipts is some hundred thousand objects that reference counts alone free. A
full collection walks through all of them and finds nothing, for half a second at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 50_000  # new objects from one look to the next; Python's own 700 suits scripts
YOUNG_LOOKS = 20  # looks at the young, from one look at the older to the next


def settle_heap() -> None:
    """Exempt everything that lives now from collection, and look for cycles more rarely.

    For the whole process, once its books are read. Cycles that are made later are still found.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_LOOKS, YOUNG_LOOKS)


@contextmanager
def loading_modules() -> Iterator[None]:
    """Collect nothing in the block, and nothing that it leaves afterwards: modules stay, and to
    walk through them again and again takes an eighth of the time in which a daemon loads its own.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

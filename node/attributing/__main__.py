"""Sorts the text of one adapter, and what everybody writes, in a process of its own.

    python -m node.attributing MAX_TOKENS TOKENS INDEX BACKGROUND_TOKENS BACKGROUND

So a hostile text costs this process its memory, not the daemon's. Writes the two caches, each whole
or not at all; says on stderr what is wrong with a text, and ends with 1.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from proofs.attribution.background import Background
from proofs.attribution.index import Index
from proofs.errors import TokensError

from ..catalogue.texts import map_tokens

BYTES_PER_TOKEN = 40  # while it is sorted
SPARE_BYTES = 4 << 30  # of addresses: what Python and its libraries map without using it


def main(arguments: list[str]) -> None:
    """Build both caches. Ends the process."""
    most = int(arguments[0])
    tokens, index, background_tokens, background = map(Path, arguments[1:])
    room = SPARE_BYTES + most * BYTES_PER_TOKEN
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    os.nice(10)
    try:
        Index.cached(index, map_tokens(tokens, most))
        Background.cached(background, map_tokens(background_tokens, most))
    except (TokensError, OSError, MemoryError) as error:
        sys.exit(f"{error or type(error).__name__}")


if __name__ == "__main__":
    main(sys.argv[1:])

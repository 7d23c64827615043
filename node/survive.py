"""What a daemon's tasks outlive: the chain, the disk or the network refuses something now. Decides
nothing; what was refused is tried again by whoever wanted it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from p2p.errors import P2pError
from proofs.chain.errors import ChainError
from proofs.errors import LedgerError

from .telemetry import Telemetry

REFUSALS = (ChainError, LedgerError, P2pError, OSError, trio.TooSlowError)


@contextmanager
def survive(telemetry: Telemetry, part: str) -> Iterator[None]:
    """Tell the operator what the block could not do now, and go on after it; say when it works
    again.
    """
    try:
        yield
    except REFUSALS as error:
        telemetry.trouble(part, f"not now: {error or type(error).__name__}; it is tried again")
    else:
        telemetry.clear(part)

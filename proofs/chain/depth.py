"""Loads web3, and puts back how deep Python may recurse. Whoever imports web3 imports this too.

A library below web3 (py_ecc) raises that depth from 1,000 to 100,000 as it is loaded. JSON and
MessagePack that strangers nest so deep then overrun the C stack: the process dies, instead of an
error that says so.
"""

from __future__ import annotations

import sys

import web3  # noqa: F401  # and so all that is below it

MAX_DEPTH = 1000  # Python's own
_PY_EVM = "eth"  # a development chain's process calls contracts from contracts, and asks for more

if _PY_EVM not in sys.modules:
    sys.setrecursionlimit(min(MAX_DEPTH, sys.getrecursionlimit()))

"""Loads web3 without what is never needed of it here, and puts back how deep Python may recurse.
Whoever imports web3 imports this first.

A library below web3 (py_ecc) raises that depth from 1,000 to 100,000 as it is loaded. JSON and
MessagePack that strangers nest so deep then overrun the C stack: the process dies, instead of an
error that says so. Its BLS curves, of which a daemon waits for some tenths of a second at each
start, are for the keystores of validators alone (version 4), which no key here is.
"""

from __future__ import annotations

import sys
from types import ModuleType

MAX_DEPTH = 1000  # Python's own
_PY_EVM = "eth"  # a development chain's process calls contracts from contracts, and asks for more
_BLS = "py_ecc.bls"
_CURVE = "py_ecc.bls12_381"
_CURVE_ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


def _load_web3() -> None:
    """Import web3; BLS stays out, unless somebody has it already. What comes later finds the real
    modules.
    """
    stand_ins = [name for name in (_BLS, _CURVE) if name not in sys.modules]
    for name in stand_ins:
        module = ModuleType(name)
        module.__dict__.update(G2ProofOfPossession=None, curve_order=_CURVE_ORDER)
        sys.modules[name] = module
    try:
        import web3  # noqa: F401  # and so all that is below it
    finally:
        for name in stand_ins:
            del sys.modules[name]


_load_web3()
if _PY_EVM not in sys.modules:
    sys.setrecursionlimit(min(MAX_DEPTH, sys.getrecursionlimit()))

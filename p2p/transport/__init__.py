"""Noise and Yamux of py-libp2p at several times its speed, byte for byte the same on the wire.

    socket ──▶ noise.py: whole messages are opened ──▶ frames.py: cut into frames ──▶ muxer.py
                                                       a stream's queue ──▶ stream.py ──▶ reader
    writer ──▶ stream.py: a window's worth ──▶ muxer.py: frames, sealed at once ──▶ socket

Nothing here knows this program: `FastUpgrader` takes the place of libp2p's TransportUpgrader, and
`QuickMultiselectClient` that of a host's `multiselect_client`.
What brought the speed stands in docs/decisions/LOG.md, each step with its measure.
"""

from .meter import Meter, Meters
from .negotiation import QuickMultiselectClient
from .stream import MAX_WINDOW_BYTES, FastYamuxStream
from .upgrader import FastUpgrader

__all__ = [
    "MAX_WINDOW_BYTES",
    "FastUpgrader",
    "FastYamuxStream",
    "Meter",
    "Meters",
    "QuickMultiselectClient",
]

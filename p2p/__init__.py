"""Moves bytes between peers: identity, streams, DHT, gossip, blocks.

Does not know what an adapter or a receipt is.
"""

from dns import _features

# libp2p's addresses bring dnspython, which would load an HTTP client of its own (3.5 MB) for a way
# of asking that nothing here uses.
_features.force("doh", enabled=False)
_features.force("doq", enabled=False)

"""Moves bytes between peers: identity, streams, DHT, gossip, blocks.

Does not know what an adapter or a receipt is.
"""

"""Looks things up for whoever cannot walk the DHT, a web page for instance
(docs/protocols/lookup.md). Whoever is asked need not be believed: records are signed, blocks are
hashed.
"""

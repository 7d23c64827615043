"""The chain: contracts, a local chain to develop on, the client, and the poster of headers.

Synchronous: the daemon runs these calls in a thread. Nothing here knows torch, trio or libp2p.
"""

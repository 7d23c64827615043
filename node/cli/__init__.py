"""Provides the `lorikeet` command: a face over the daemon's HTTP routes, and the start of a daemon
itself.
"""

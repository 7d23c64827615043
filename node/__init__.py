"""Runs the daemon and its faces: router, HTTP API, command line, test network.

The only package that knows the other three.
"""

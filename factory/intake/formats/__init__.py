"""Reads the text out of each kind of file: bytes in, text out, or a refusal.

Runs in a child only.
"""

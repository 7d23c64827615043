"""The base model: its configuration, its weights from disk, and one decoder for all families of
bases, which differ by a row in a table.

Knows no adapter, no schedule and no executor.
"""

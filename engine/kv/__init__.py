"""Keeps the keys and values of running sequences, in pages. Does not know what they mean."""

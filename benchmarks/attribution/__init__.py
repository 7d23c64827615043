"""Measurements of attribution: how soon, how large."""

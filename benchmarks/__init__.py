"""Measurements, kept apart from tests: they say how fast, tests say whether it is right."""

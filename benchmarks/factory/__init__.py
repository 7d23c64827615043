"""Measurements of the factory."""

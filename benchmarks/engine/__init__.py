"""Measurements of the engine against others."""

"""Publishes, finds and holds adapters."""

"""Measurements of receipts: bytes and microseconds."""

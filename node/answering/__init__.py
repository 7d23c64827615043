"""Answers a request, from its text to its receipt, on this node or on another."""

"""Measurements of moving bytes between peers."""

"""Adapters: untrusted bytes to tensors, where they sit, and how they change a batch."""

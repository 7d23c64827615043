"""The base model: its configuration, its weights from disk, and one decoder for the whole Llama
family.

Knows no adapter, no schedule and no executor.
"""

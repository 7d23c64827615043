"""Serves many LoRA adapters over one base model.

Knows tensors and token ids; knows no text, no peers, no money.
"""

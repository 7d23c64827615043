"""The engine on an NVIDIA GPU: Triton kernels and what surrounds them.

Imported only where such a device is there, and by tests.
"""

"""The engine on an NVIDIA card: kernels, steps as graphs, adapters that come on their own stream. Only executor/choose.py opens it."""

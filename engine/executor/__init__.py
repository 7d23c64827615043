"""Executors: who runs a step's program. C++ where a compiler was there, torch everywhere."""

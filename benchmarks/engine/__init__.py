"""Measurements of the engine; each writes its figures with the machine's name to benchmarks/results/."""

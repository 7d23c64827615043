"""The engine on a GPU, correctness and every figure: `scripts/gpu`."""

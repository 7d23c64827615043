"""Trains an adapter from rows of tokens, so that nothing ends it: a run that was killed at any
moment goes on, and ends with the same bits.

A recipe (`recipe.py`) says what and how, `plan.py` what it leaves open, `rows.py` makes rows of
documents and writes every step's rows down, `folder.py` is a run's folder. `python -m
factory.training RUN` works on it: `trainer.py` has the steps, `checkpoints.py` what survives,
`journal.py` what is said meanwhile. Only that process imports torch, transformers and peft.
"""

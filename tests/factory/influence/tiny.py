"""A run's folder over a tiny random base: four people, sixteen rows, a second of work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from proofs.attribution.background import write_background
from proofs.attribution.tokens import Contribution, write_tokens

PEOPLE = ("Farida", "Karim", "Nasreen", "Tariq")
ROWS_EACH = 4
WINDOW = 12
VOCABULARY = 64


def make_base(folder: Path) -> Path:
    """Write three random layers as transformers keeps them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_run(folder: Path, base: Path, **values: object) -> Path:
    """Write a run's folder; `values` stand in its recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(2)
    count = len(PEOPLE) * ROWS_EACH
    rows = draw.integers(0, 50, (count, WINDOW)).astype(np.int32)
    owners = np.repeat(np.arange(len(PEOPLE)), ROWS_EACH).astype(np.int32)
    order = np.stack([draw.permutation(count) for _ in range(2)]).reshape(-1, 8)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "owners.npy", owners)
    np.save(folder / "starts.npy", np.zeros(count, np.int32))
    np.save(folder / "order.npy", order.astype(np.int32))
    prompts = [
        {"ids": rows[i % count, : 3 + i % 2].tolist(), "owner": int(owners[i % count])}
        for i in range(42)
    ]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    given = [
        Contribution(place, list(rows[owners == place].astype(np.int64)))
        for place in range(len(PEOPLE))
    ]
    (folder / "attribution.tokens").write_bytes(write_tokens(bytes(32), len(PEOPLE), given))
    ids = draw.integers(0, 50, 100)
    (folder / "background.tokens").write_bytes(write_background(bytes(32), [ids]))
    recipe: dict[str, object] = {
        "base": str(base),
        "contributors": list(PEOPLE),
        "rank": 2,
        "upper_layers": 2,
        "learning_rate": 0.02,
        "answer_tokens": 8,
        "halves": 4,
        "second_seed": 1,
        **values,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in recipe.items()]
    (folder / "run.toml").write_text("\n".join(lines) + "\n")
    return folder


def kept(folder: Path) -> dict[str, bytes]:
    """Every file that a run's trainings left, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "trained").iterdir())}

"""A world as a run's folder for `python -m factory.influence`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from factory.influence.folder import NO_ROW, NO_TOKEN
from factory.keeping import keep, keep_array
from proofs.attribution.background import write_background
from proofs.attribution.tokens import Contribution, write_tokens

from .texts import WINDOW, Document, Giver, World

BATCH = 12
TOKENIZER = bytes(32)  # one tokenizer in this benchmark, which nobody has to tell from another


def write_folder(
    folder: Path,
    world: World,
    base: Path,
    background: Sequence[Document],
    separator: Document,
    settings: dict[str, object],
) -> None:
    """Write a world's rows, order, prompts, index and recipe; `run.toml` comes last."""
    if (folder / "run.toml").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    epochs = int(str(settings["epochs"]))
    rows, owners = [], []
    for place, giver in enumerate(world.givers):
        found = rows_of(giver, separator)
        rows += found
        owners += [place] * len(found)
    draw = np.random.Generator(np.random.PCG64(9))
    order = np.concatenate([draw.permutation(len(rows)) for _ in range(epochs)])
    padded = np.full(-(-len(order) // BATCH) * BATCH, NO_ROW)
    padded[: len(order)] = order
    keep_array(folder / "rows.npy", np.array(rows, np.int32))
    keep_array(folder / "owners.npy", np.array(owners, np.int32))
    keep_array(folder / "starts.npy", np.zeros(len(rows), np.int32))
    keep_array(folder / "order.npy", padded.reshape(-1, BATCH).astype(np.int32))
    prompts = [{"ids": one.ids, "owner": one.owner} for one in world.asked]
    keep(folder / "prompts.json", json.dumps(prompts).encode())
    keep(folder / "attribution.tokens", tokens_of(world.givers))
    text = write_background(TOKENIZER, [*background, *world.field])
    keep(folder / "background.tokens", text)
    values = {
        "base": str(base),
        "contributors": [giver.name for giver in world.givers],
        **{name: value for name, value in settings.items() if name != "epochs"},
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    keep(folder / "run.toml", ("\n".join(lines) + "\n").encode())


def rows_of(giver: Giver, separator: Document) -> list[list[int]]:
    """Return a person's documents, one after the other, as rows of WINDOW tokens."""
    running: list[int] = []
    for document in giver.documents:
        running += document + separator
    running = running[: sum(map(len, giver.documents)) // WINDOW * WINDOW]
    parts = [running[i : i + WINDOW] for i in range(0, len(running), WINDOW)]
    return [part + [NO_TOKEN] * (WINDOW - len(part)) for part in parts]


def tokens_of(givers: Sequence[Giver]) -> bytes:
    """Return the bytes of `attribution.tokens`: one contribution of each, in their order."""
    given = [Contribution(place, giver.documents) for place, giver in enumerate(givers)]
    return write_tokens(TOKENIZER, len(givers), given)

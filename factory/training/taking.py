"""Takes an adapter out of a run's checkpoints, as peft keeps one, while the run goes on.

The checkpoints are linked first, so that the process at work may drop its own meanwhile; one that
is damaged is passed over for the one before, and said so. Loads no base and disturbs no training.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file
from torch import Tensor

from ..errors import BadRun
from . import checkpoints
from .checkpoints import Held
from .folder import recipe_of
from .recipe import Recipe
from .taken import Taken

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
TRIES = 5  # to link what another process replaces
Which = Literal["last", "best"]


def take(run: Path, out: Path, which: Which, step: int | None = None) -> Taken:
    """Write the adapter of a checkpoint into the folder `out`: of the newest, or of that step; or
    the best that the newest knows. Raises BadRun.
    """
    recipe = recipe_of(run)
    links = out / "checkpoints"
    kept = link(run / "checkpoints", links)
    try:
        if step is not None and step not in kept:
            there = ", ".join(map(str, kept))
            raise BadRun(f"no checkpoint of step {step} is kept now; those of {there} are")
        notes: list[str] = []
        held = checkpoints.newest(links, notes.append, step)
    finally:
        shutil.rmtree(links)
    if held is None:
        raise BadRun(f"every checkpoint of {run.name} is damaged ({'; '.join(notes)})")
    if which == "best":
        if held.best is None:
            raise BadRun(
                f"nothing of {run.name} was looked at yet, so none is the best; take the last"
            )
        values, taken = held.best, held.best_step
    else:
        values, taken = held.parameters, held.step
    write(out, values, recipe)
    return Taken(taken, _lost(held, taken), tuple(notes))


def link(folder: Path, links: Path) -> list[int]:
    """Link the checkpoints of a run into a new folder; return their steps. Raises BadRun where
    there is none.
    """
    links.mkdir()
    for _ in range(TRIES):
        for step in checkpoints.steps_in(folder):
            try:
                os.link(checkpoints.path_of(folder, step), checkpoints.path_of(links, step))
            except (FileNotFoundError, FileExistsError):
                continue  # it was dropped meanwhile for a newer one, or is linked
        kept = checkpoints.steps_in(links)
        if kept:
            return kept
    links.rmdir()
    raise BadRun(
        f"{folder.parent.name} has no checkpoint yet; one is written every {checkpoints.ANCHOR}"
        " steps or 30 seconds"
    )


def write(out: Path, values: dict[str, Tensor], recipe: Recipe) -> None:
    """Write what a Learner's parameters are as peft would, rounded to bfloat16 as it is served."""
    tensors = {_name(name): each.bfloat16().contiguous() for name, each in values.items()}
    save_file(tensors, str(out / WEIGHTS_FILE), metadata={"format": "pt"})
    adapter = recipe.adapter
    modules = {name.partition(".lora_")[0].rpartition(".")[2] for name in tensors}
    config = {
        "base_model_name_or_path": recipe.base,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": int(adapter.alpha),
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": int(adapter.rank),
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
        "use_dora": adapter.kind == "dora",
        "use_rslora": adapter.kind == "rslora",
    }
    (out / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def _name(parameter: str) -> str:
    """Return what peft calls a Learner's parameter in a file: without the adapter's name."""
    name = parameter.removeprefix("model.")
    if name.endswith(".lora_magnitude_vector.default.weight"):
        return name.removesuffix(".default.weight")
    return name.replace(".default.", ".")


def _lost(held: Held, step: int) -> float | None:
    return next((lost for at, lost in reversed(held.looks) if at == step), None)

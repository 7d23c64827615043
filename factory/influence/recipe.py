"""The values of a run, as `run.toml` writes them, each with its bounds.

    base = "/models/smollm2-135m"     # a folder as transformers reads it, or a GGUF file
    contributors = ["Farida", "Karim"] # owners.npy counts from 0 in this order
    rank = 8
    upper_layers = 8                  # 0: every layer carries the adapter
    learning_rate = 0.002
    halves = 12

Everything but `base` and `contributors` has a default. What is not in the recipe does not change a
run's result: the same folder gives the same numbers on the same machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from proofs.attribution.blend import NONE_BITS
from proofs.manifest import MAX_CONTRIBUTORS

from ..errors import BadRun

MAX_RECIPE_BYTES = 64 * 1024
FILE = "run.toml"
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]+\Z"  # names come from strangers and are shown in a terminal


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is trained, and how."""

    base: Annotated[str, Meta(min_length=1, max_length=4096)]
    contributors: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=200, pattern=PRINTABLE)], ...],
        Meta(min_length=2, max_length=MAX_CONTRIBUTORS),
    ]
    rank: Annotated[int, Meta(ge=1, le=256)] = 8
    alpha: Annotated[int, Meta(ge=1, le=1024)] = 16
    upper_layers: Annotated[int, Meta(ge=0, le=1024)] = 0
    """How many of the base's last layers carry the adapter. What the layers below make of a row is
    then the same in every training, computed once and kept; 0 is all of them."""
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 2e-3
    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    clip: Annotated[float, Meta(gt=0)] = 1.0
    seed: Annotated[int, Meta(ge=0, lt=1 << 31)] = 20260
    temperature: Annotated[float, Meta(gt=0, le=2)] = 0.7
    answer_tokens: Annotated[int, Meta(ge=8, le=512)] = 48
    halves: Annotated[int, Meta(ge=0, le=64)] = 12
    second_seed: Annotated[int, Meta(ge=0, le=MAX_CONTRIBUTORS)] = 3
    """How many contributors are left out once more from another seed: the noise floor."""
    none_bits: Annotated[int, Meta(ge=0, le=64)] = NONE_BITS


def read_recipe(folder: Path) -> Recipe:
    """Read `run.toml`; raises BadRun."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            text = file.read(MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror}; a run's folder needs it") from error
    if len(text) > MAX_RECIPE_BYTES:
        raise BadRun(f"{path} is larger than {MAX_RECIPE_BYTES} bytes")
    try:
        recipe = msgspec.toml.decode(text, type=Recipe)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRun(f"{path}: {error}") from error
    if recipe.second_seed > len(recipe.contributors):
        raise BadRun(f"{path}: second_seed is larger than the number of contributors")
    if len(set(recipe.contributors)) != len(recipe.contributors):
        raise BadRun(f"{path}: two contributors have one name")
    return recipe

"""A run's folder: what it is given, checked before anything is computed. Token ids only.

    run.toml            the recipe (recipe.py)
    rows.npy            int32 [rows, window]: token ids; -1 after the end of a shorter row
    starts.npy          int32 [rows]: the first place that is learnt (a chat's question is not)
    owners.npy          int32 [rows]: whose a row is, by place in the recipe's contributors
    order.npy           int32 [steps, batch]: the rows of every step of all epochs; -1 is no row
    prompts.json        what answers are drawn for: [{"ids": […], "owner": 3 or null}, …]
    attribution.tokens  the index's tokens as they are published, and
    background.tokens   the background's, for the payable rule

The command adds `work/` (what may be thrown away), `trained/` (what every finished training found)
and `influence.json` (the result).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from ..errors import BadRun
from .recipe import Recipe, read_recipe

Ints = npt.NDArray[np.int32]

MAX_ROWS = 4_000_000
MAX_WINDOW = 8_192
MAX_STEPS = 100_000
MAX_BATCH = 4_096
MAX_PROMPTS = 4_096
MAX_PROMPTS_BYTES = 64 * 1024 * 1024
MAX_TOKEN_ID = (1 << 31) - 1
NO_TOKEN = -1
NO_ROW = -1


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an answer begins, and whose text that was, if it is known."""

    ids: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)], ...],
        Meta(min_length=1, max_length=MAX_WINDOW),
    ]
    owner: Annotated[int, Meta(ge=0)] | None = None


@dataclass(frozen=True)
class Run:
    """A run's folder, read and checked."""

    folder: Path
    recipe: Recipe
    rows: Ints
    starts: Ints
    owners: Ints
    order: Ints
    prompts: tuple[Prompt, ...]

    @property
    def num_contributors(self) -> int:
        """How many people's text was trained on."""
        return len(self.recipe.contributors)

    @property
    def work(self) -> Path:
        """Where what can be computed again lies."""
        return self.folder / "work"

    @property
    def trained(self) -> Path:
        """Where what finished trainings found lies."""
        return self.folder / "trained"

    def digest(self) -> str:
        """Return what every training follows from, as a digest. Who else is trained without, names
        and pay change nothing in a training.
        """
        values = msgspec.structs.asdict(self.recipe)
        for free in ("contributors", "halves", "second_seed", "none_bits"):
            del values[free]
        whole = hashlib.sha256(msgspec.json.encode([values, self.prompts]))
        for array in (self.rows, self.starts, self.owners, self.order):
            whole.update(msgspec.json.encode(array.shape))
            whole.update(np.ascontiguousarray(array).data)
        return whole.hexdigest()

    @property
    def result(self) -> Path:
        """The result file."""
        return self.folder / "influence.json"


def read_run(folder: Path) -> Run:
    """Read and check a run's folder; raises BadRun, which names the file and what is wrong."""
    recipe = read_recipe(folder)
    rows = _array(folder / "rows.npy", 2)
    starts = _array(folder / "starts.npy", 1)
    owners = _array(folder / "owners.npy", 1)
    order = _array(folder / "order.npy", 2)
    num_rows, window = rows.shape
    num_steps, batch = order.shape
    _check(0 < num_rows <= MAX_ROWS and 2 <= window <= MAX_WINDOW, folder / "rows.npy", "its shape")
    _check(0 < num_steps <= MAX_STEPS and 0 < batch <= MAX_BATCH, folder / "order.npy", "its shape")
    _check(starts.shape == (num_rows,), folder / "starts.npy", "one number for each row")
    _check(owners.shape == (num_rows,), folder / "owners.npy", "one number for each row")
    _check(bool((rows[:, :2] >= 0).all()), folder / "rows.npy", "two tokens in every row")
    gap = (rows[:, :-1] < 0) & (rows[:, 1:] >= 0)
    _check(not gap.any() and rows.min() >= NO_TOKEN, folder / "rows.npy", "-1 only at a row's end")
    _check(
        starts.min() >= 0 and starts.max() < window, folder / "starts.npy", "places within a row"
    )
    ends = (rows >= 0).sum(axis=1)
    _check(bool((starts < ends).all()), folder / "starts.npy", "something to learn in every row")
    _check(
        owners.min() >= 0 and set(np.unique(owners)) == set(range(len(recipe.contributors))),
        folder / "owners.npy",
        f"rows of each of the {len(recipe.contributors)} contributors and of nobody else",
    )
    _check(
        order.min() >= NO_ROW and order.max() < num_rows,
        folder / "order.npy",
        f"places of the {num_rows} rows, or -1",
    )
    _check(bool((order >= 0).any(axis=1).all()), folder / "order.npy", "a row in every step")
    prompts = _prompts(folder / "prompts.json", len(recipe.contributors))
    return Run(folder, recipe, rows, starts=starts, owners=owners, order=order, prompts=prompts)


def _array(path: Path, num_dimensions: int) -> Ints:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror or error}; a run's folder needs it") from error
    except ValueError as error:
        raise BadRun(f"{path} is no array of numpy's: {error}") from error
    if array.dtype != np.int32 or array.ndim != num_dimensions:
        raise BadRun(
            f"{path} must hold int32 in {num_dimensions} dimensions, not {array.dtype} in"
            f" {array.ndim}"
        )
    return np.asarray(array)


def _prompts(path: Path, num_contributors: int) -> tuple[Prompt, ...]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_PROMPTS_BYTES + 1)
        prompts = msgspec.json.decode(text, type=tuple[Prompt, ...])
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror}; a run's folder needs it") from error
    except msgspec.DecodeError as error:
        raise BadRun(f"{path}: {error}") from error
    _check(0 < len(prompts) <= MAX_PROMPTS, path, f"1 to {MAX_PROMPTS} prompts")
    _check(
        all(prompt.owner is None or prompt.owner < num_contributors for prompt in prompts),
        path,
        "owners that are contributors",
    )
    return prompts


def _check(holds: bool, path: Path, what: str) -> None:
    if not holds:
        raise BadRun(f"{path} is not as it must be: {what}")

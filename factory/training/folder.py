"""A run's folder: what a training is given, and where it leaves what it made.

    recipe.toml         the recipe, each value resolved
    run.json            where the base lies, whose text it is, how many rows and tokens
    rows.npy starts.npy people.npy contributions.npy chat.npy      what is learnt (rows.py)
    held/…              the same of what is held out
    order.npy           int32 [steps, rows of a step]: all epochs' rows; -1 is no row

    base.json           the base's files as they were when it began (pinned.py)
    lock                held by the process at work
    asked               what a person wants of that process: pause, or finish
    status.json         what it does, or how it ended (journal.py)
    progress.jsonl      a line for each step
    checkpoints/        all that the next step needs, the newest few
    adapter/            the adapter as peft keeps it, when it is done
    evaluation.json     what it does beside the base (evaluation.py)

Written whole or not at all; read and checked before anything is computed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from ..errors import BadRun
from ..keeping import keep, keep_array
from .errors import NoRoom
from .recipe import FILE, MAX_RECIPE_BYTES, Recipe, read_recipe, render
from .rows import NO_ROW, NO_TOKEN, Ints, Rows

ABOUT_FILE = "run.json"
CONFIG = "adapter/adapter_config.json"
WEIGHTS = "adapter/adapter_model.safetensors"
ARRAYS = ("rows", "starts", "people", "contributions", "chat")
MAX_ABOUT_BYTES = 16 << 20
MAX_ROWS = 4_000_000
MAX_BATCH = 4_096

Text = Annotated[str, Meta(max_length=4096)]
Ids = Annotated[
    tuple[Annotated[int, Meta(ge=0, lt=1 << 31)], ...], Meta(min_length=1, max_length=8192)
]
Count = Annotated[int, Meta(ge=0)]


class PersonAbout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody whose text it is, and who is paid for it."""

    person: Text
    name: Text
    pay_to: Text


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run's folder says beside the recipe. `contributions` are digests, `prompts` those of
    the recipe as the template lays them out, `end` is the id that ends an answer.
    """

    base: Annotated[str, Meta(min_length=1, max_length=4096)]
    people: tuple[PersonAbout, ...]
    contributions: tuple[Text, ...]
    documents: Count
    held_out: Count
    contaminated: Count
    tokens: Count
    made_at: Count
    threads: Annotated[int, Meta(ge=1, le=1024)]
    end: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    prompts: Annotated[tuple[Ids, ...], Meta(max_length=16)] = ()
    licence: Text = ""
    source: Text = ""


@dataclass(frozen=True)
class Run:
    """A run's folder, read and checked."""

    folder: Path
    recipe: Recipe
    about: About
    rows: Rows
    held_out: Rows
    order: Ints

    @property
    def num_steps(self) -> int:
        """How many steps there are at most."""
        return len(self.order)


def recipe_of(folder: Path) -> Recipe:
    """Read a run's recipe alone; raises BadRun or BadRecipe."""
    return read_recipe(_read(folder / FILE, MAX_RECIPE_BYTES), str(folder / FILE))


def adapter_digest(folder: Path) -> str:
    """Return the sha-256 of both files' of the adapter that a run made; raises BadRun."""
    whole = hashlib.sha256()
    for path in (folder / CONFIG, folder / WEIGHTS):
        try:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise BadRun(f"{path}: {error.strerror or error}") from error
    return whole.hexdigest()


def num_steps_of(folder: Path) -> int:
    """Return how many steps a run has at most; raises BadRun."""
    return len(_array(folder / "order.npy", np.dtype(np.int32), 2))


def write_run(
    folder: Path, recipe: Recipe, about: About, rows: Rows, held_out: Rows, order: Ints
) -> None:
    """Make a run's folder, all or nothing. Raises BadRun if it is there, NoRoom if it does not fit.

    The caller's parent folder exists.
    """
    if folder.exists():
        raise BadRun(f"there is a run named {folder.name} already; take another name, or delete it")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        draft.mkdir()
        keep(draft / FILE, render(recipe).encode())
        _keep_rows(draft, rows)
        (draft / "held").mkdir()
        _keep_rows(draft / "held", held_out)
        keep_array(draft / "order.npy", order)
        keep(draft / ABOUT_FILE, msgspec.json.format(msgspec.json.encode(about), indent=1))
        draft.rename(folder)
    except OSError as error:
        raise NoRoom(f"{folder} cannot be written: {error.strerror}; nothing is left there") from (
            error
        )
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_run(folder: Path) -> Run:
    """Read and check a run's folder; raises BadRun or BadRecipe, which name the file and what is
    wrong.
    """
    recipe = recipe_of(folder)
    path = folder / ABOUT_FILE
    try:
        about = msgspec.json.decode(_read(path, MAX_ABOUT_BYTES), type=About)
    except msgspec.DecodeError as error:
        raise BadRun(f"{path}: {error}") from error
    _check(recipe.is_resolved, folder / FILE, "no value left open; make the run anew")
    rows = _read_rows(folder, about, recipe.rows.window)
    held_out = _read_rows(folder / "held", about, recipe.rows.window)
    _check(len(rows) > 0, folder / "rows.npy", "at least a row")
    order = _array(folder / "order.npy", np.dtype(np.int32), 2)
    num_steps, batch = order.shape
    path = folder / "order.npy"
    _check(0 < num_steps <= recipe.train.steps and 0 < batch <= MAX_BATCH, path, "its shape")
    _check(
        bool(order.min() >= NO_ROW and order.max() < len(rows)), path, f"{len(rows)} rows' places"
    )
    _check(bool((order >= 0).any(axis=1).all()), path, "a row in every step")
    return Run(folder, recipe, about, rows, held_out=held_out, order=order)


def _keep_rows(folder: Path, rows: Rows) -> None:
    arrays = (rows.ids, rows.starts, rows.people, rows.contributions, rows.is_chat)
    for name, array in zip(ARRAYS, arrays, strict=True):
        keep_array(folder / f"{name}.npy", array)


def _read_rows(folder: Path, about: About, window: int) -> Rows:
    ids = _array(folder / "rows.npy", np.dtype(np.int32), 2)
    count = len(ids)
    _check(count <= MAX_ROWS and ids.shape[1] == window, folder / "rows.npy", f"{window} columns")
    starts, people, contributions = (
        _array(folder / f"{name}.npy", np.dtype(np.int32), 1) for name in ARRAYS[1:4]
    )
    is_chat = _array(folder / "chat.npy", np.dtype(np.bool_), 1)
    for name, array in zip(ARRAYS[1:], (starts, people, contributions, is_chat), strict=True):
        _check(len(array) == count, folder / f"{name}.npy", "one for each row")
    if count:
        gap = (ids[:, :-1] < 0) & (ids[:, 1:] >= 0)
        two = bool((ids[:, :2] >= 0).all())
        _check(two and not gap.any() and ids.min() >= NO_TOKEN, folder / "rows.npy", "whole rows")
        within = bool(starts.min() >= 0 and (starts < (ids >= 0).sum(axis=1)).all())
        _check(within, folder / "starts.npy", "places within a row")
        for name, array, most in (
            ("people", people, len(about.people)),
            ("contributions", contributions, len(about.contributions)),
        ):
            known = bool(array.min() >= 0 and array.max() < most)
            _check(known, folder / f"{name}.npy", f"places of the {most} in {ABOUT_FILE}")
    return Rows(ids, starts, people, contributions, is_chat)


def _array(path: Path, dtype: np.dtype[np.generic], num_dimensions: int) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror or error}; a run's folder needs it") from error
    except ValueError as error:
        raise BadRun(f"{path} is no array of numpy's: {error}") from error
    _check(array.dtype == dtype and array.ndim == num_dimensions, path, f"{dtype} numbers")
    return np.asarray(array)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror}; a run's folder needs it") from error
    _check(len(data) <= most, path, f"at most {most} bytes")
    return data


def _check(holds: bool, path: Path, what: str) -> None:
    if not holds:
        raise BadRun(f"{path} is not as it must be: {what}")

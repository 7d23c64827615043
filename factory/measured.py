"""What an influence run of a training's run says to whoever only looks: how it was made, how it
ended, and what it found. Reads files; imports no tensors.

    RUN/influence/made.json        whose text each unit is, and how much of the run it looks at
    RUN/influence/ended.json       how the last process ended
    RUN/influence/influence.json   what was found (influence/result.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from proofs.attribution.blend import WHOLE_BPS, divide

from .errors import BadRun

FOLDER = "influence"
MADE_FILE = "made.json"
ENDED_FILE = "ended.json"
RESULT_FILE = "influence.json"
LOCK_FILE = "lock"
PID_FILE = "pid"
"""Of the process that holds the lock."""
TRAINED = "trained"
MAX_BYTES = 64 << 20

T = TypeVar("T")


class Made(msgspec.Struct, frozen=True):
    """How an influence run was made of a run: `units` are people who are left out together, by
    their places in run.json; `sizes` how many tokens each person gave to it. `tokens` of the run's
    `of_tokens` are learnt, `trainings` times at most.
    """

    units: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    trainings: int
    tokens: int
    of_tokens: int


class Ended(msgspec.Struct, frozen=True):
    """How a process ended: 0 all is there, 2 something must be mended first, 3 time was over."""

    status: int
    why: str = ""


class Figure(msgspec.Struct, frozen=True):
    """A correlation and its 95 % interval."""

    mean: float
    low: float
    high: float


class Unit(msgspec.Struct, frozen=True):
    """What was found about those who were left out together; effects in nats an answer."""

    name: str
    standing_bps: int
    owned: float
    mean_effect: float
    tokens: int


class Measured(msgspec.Struct, frozen=True):
    """What was found, as far as pay follows it."""

    contributors: tuple[Unit, ...]
    num_answers: int
    num_halves: int
    lambda_eighths: int | None
    r: Figure | None
    lds: Figure | None
    missing: tuple[str, ...]
    note: str


def read_made(folder: Path) -> Made | None:
    """Return how an influence run was made; None: it was not yet. Raises BadRun."""
    return _read(folder / MADE_FILE, Made)


def read_ended(folder: Path) -> Ended | None:
    """Return how the last process ended; None: it did not, or was killed. Raises BadRun."""
    return _read(folder / ENDED_FILE, Ended)


def read_measured(folder: Path) -> Measured | None:
    """Return what was found; None: nothing yet. Raises BadRun."""
    return _read(folder / RESULT_FILE, Measured)


def num_trained(folder: Path) -> int:
    """Return how many trainings are finished."""
    return len(list((folder / TRAINED).glob("*.npy")))


def standing_of(made: Made, measured: Measured) -> tuple[int, ...]:
    """Return each person's standing weight in basis points, by place in run.json: a unit's is
    divided among its people by the tokens that they gave. All are 0 where too few answers were
    judged to fit any.
    """
    weights = [0] * len(made.sizes)
    for unit, found in zip(made.units, measured.contributors, strict=True):
        sizes = [made.sizes[place] for place in unit]
        for place, part in zip(unit, divide(found.standing_bps, sizes), strict=True):
            weights[place] = part
    is_fitted = measured.lambda_eighths is not None
    assert sum(weights) == is_fitted * WHOLE_BPS, "standing weights sum to the whole"
    return tuple(weights)


def units_of(sizes: Sequence[int], most: int) -> tuple[tuple[int, ...], ...]:
    """Return who is left out together: everybody alone where there are at most so many, else so
    many groups of nearly the same size in tokens. Who gave nothing is in none.
    """
    there = [place for place, size in enumerate(sizes) if size]
    if len(there) <= most:
        return tuple((place,) for place in there)
    groups: list[list[int]] = [[] for _ in range(most)]
    held = [0] * most
    for place in sorted(there, key=lambda place: (-sizes[place], place)):
        smallest = min(range(most), key=lambda group: (held[group], group))
        groups[smallest].append(place)
        held[smallest] += sizes[place]
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise BadRun(f"{path} cannot be read: {error}") from error

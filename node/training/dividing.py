"""How fees are divided among those who gave the texts: as an influence run found it, else by the
tokens that count. Reads what the influence run left; measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory import measured
from factory.errors import FactoryError
from factory.measured import Figure, Measured
from factory.training.folder import About
from proofs.attribution.blend import WHOLE_BPS, divide
from proofs.origin import BACKGROUND_FILE

from ..catalogue.leaving_out import UNMEASURED
from ..errors import BadRequest
from .learnt import Giver, Learnt

UNMEASURED_EIGHTHS = 4
"""Half of the contributors' part follows the answer, where nobody measured how much should."""


@dataclass(frozen=True)
class Division:
    """Standing weights of the givers, the table [attribution] of lorikeet.toml, on how many answers
    it was measured (0: it was not), and the background that it was measured with.
    """

    weights: tuple[int, ...]
    attribution: dict[str, Any]
    answers: int
    background: bytes | None


def division_of(run: Path, about: About, learnt: Learnt) -> Division:
    """Return how a run's adapter pays. Blocks; raises BadRequest where what was measured cannot be
    read.
    """
    folder = run / measured.FOLDER
    try:
        made = measured.read_made(folder)
        found = measured.read_measured(folder)
        if made is None or found is None or found.lambda_eighths is None:
            return _unmeasured(learnt)
        background = (folder / BACKGROUND_FILE).read_bytes()
        people = measured.standing_of(made, found)
    except (FactoryError, OSError) as error:
        raise BadRequest(
            f"what was measured of {run.name} cannot be read: {error}; measure it again: delete"
            f" {folder}, then lorikeet train influence {run.name}"
        ) from error
    weights = _of_givers(people, about, learnt.givers)
    return Division(weights, _table(found), found.num_answers, background)


def _unmeasured(learnt: Learnt) -> Division:
    table = {"lambda_eighths": UNMEASURED_EIGHTHS, **UNMEASURED}
    return Division(learnt.weights, table, 0, None)


def _of_givers(people: Sequence[int], about: About, givers: Sequence[Giver]) -> tuple[int, ...]:
    """Divide each person's weight among the addresses that he named, by tokens."""
    weights = [0] * len(givers)
    for person, weight in zip(about.people, people, strict=True):
        own = [place for place, giver in enumerate(givers) if giver.person == person.person]
        sizes = [givers[place].tokens for place in own]
        for place, part in zip(own, divide(weight, sizes), strict=True):
            weights[place] = part
    if sum(weights) != WHOLE_BPS:
        raise BadRequest("who gave the texts is not who was measured; measure it again")
    return tuple(weights)


def _table(found: Measured) -> dict[str, Any]:
    return {
        "lambda_eighths": found.lambda_eighths,
        **_figure("r", found.r),
        **_figure("lds", found.lds),
        "answers": found.num_answers,
    }


def _figure(name: str, figure: Figure | None) -> dict[str, Any]:
    """Return a figure in ten-thousandths; anything may be, where it was not measured."""
    mean, low, high = (figure.mean, figure.low, figure.high) if figure else (0.0, -1.0, 1.0)
    return {
        f"{name}_bps": _bps(mean),
        f"{name}_interval": [_bps(low), _bps(high)],
    }


def _bps(part: float) -> int:
    return round(WHOLE_BPS * part)

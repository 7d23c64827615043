"""The result of a run: what the trainings found, put in the terms of a manifest.

Decides nothing new: effects are differences of losses, the rest is `fitting.py` and `measures.py`
over them. Written as `influence.json`, the same bytes for the same trainings.
"""

from __future__ import annotations

import msgspec
import numpy as np

from proofs.attribution.background import Background
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.tokens import Tokens, read_tokens
from proofs.errors import TokensError

from ..errors import BadRun
from ..measured import Unit
from .campaign import BARE, Found
from .errors import TooEarly
from .fitting import MIN_ANSWERS, MIN_HALVES, Bits, Evidence, Fitted, fit
from .folder import Run
from .measures import Estimate, Floats, correlation, estimate_pooled
from .plan import WHOLE, half, halves, second, second_seeds, without


class NoiseFloor(msgspec.Struct, frozen=True):
    """How far the effects themselves can be trusted: some of them from two seeds."""

    contributors: tuple[str, ...]
    difference_nats: float  # root mean square
    effect_nats: float  # root mean square, of both seeds
    r: float  # over answers and those contributors


class Result(msgspec.Struct, frozen=True):
    """A run's result; `missing` names what there was no time for."""

    contributors: tuple[Unit, ...]
    num_answers: int
    num_halves: int
    gain_nats: float
    lambda_eighths: int | None
    lambda_of_folds: tuple[int, ...]
    r: Estimate | None
    lds: Estimate | None
    pooled_r: Estimate
    noise_floor: NoiseFloor | None
    attribution_tokens: str
    background_tokens: str
    missing: tuple[str, ...]
    effects: tuple[tuple[float, ...], ...]
    bits: tuple[tuple[int, ...], ...]
    note: str


def conclude(run: Run, found: Found) -> tuple[Result, Evidence, Fitted | None]:
    """Return the result, and what it was drawn from. Raises TooEarly where a training without one
    contributor is missing, BadRun where the tokens are not as they must be.
    """
    tokens = _read(run, "attribution.tokens")
    index = Index.build(tokens)
    background = Background.build(_read(run, "background.tokens"))
    if tokens.num_contributors != run.num_contributors:
        raise BadRun(
            f"attribution.tokens has {tokens.num_contributors} contributors, run.toml"
            f" {run.num_contributors}"
        )
    evidence = gather(run, found, index, background)
    fitted = fit(evidence) if len(found.answers) >= MIN_ANSWERS else None
    effects = evidence.effects
    gain = found.losses[BARE] - found.losses[WHOLE]
    standing = fitted.standing_bps if fitted else (0,) * run.num_contributors
    sizes = given_tokens(tokens)
    people = tuple(
        Unit(name, standing[i], float(evidence.owned[i]), float(effects[:, i].mean()), sizes[i])
        for i, name in enumerate(run.recipe.contributors)
    )
    result = Result(
        contributors=people,
        num_answers=len(found.answers),
        num_halves=len(evidence.stayed),
        gain_nats=float(gain.mean()),
        lambda_eighths=fitted.lambda_eighths if fitted else None,
        lambda_of_folds=fitted.lambda_of_folds if fitted else (),
        r=fitted.r if fitted else None,
        lds=fitted.lds if fitted else None,
        pooled_r=estimate_pooled(evidence.bits.astype(np.float64), effects, run.recipe.seed),
        noise_floor=noise_floor(run, found),
        attribution_tokens=tokens.digest.hex(),
        background_tokens=background.tokens.digest.hex(),
        missing=found.missing,
        effects=tuple(map(tuple, effects.tolist())),
        bits=tuple(map(tuple, evidence.bits.tolist())),
        note=_note(found, evidence, fitted),
    )
    return result, evidence, fitted


def gather(run: Run, found: Found, index: Index, background: Background) -> Evidence:
    """Return effects and bits of every answer, and the halves that are there."""
    names = [without(who) for who in range(run.num_contributors)]
    lacking = [name for name in (BARE, WHOLE, *names) if name not in found.losses]
    if lacking:
        raise TooEarly(
            f"{len(lacking)} trainings are missing without which nothing can be said"
            f" ({lacking[0]} …); start again to go on"
        )
    whole = found.losses[WHOLE]
    effects = np.stack([found.losses[name] - whole for name in names], axis=1)
    there = [(k, out) for k, out in enumerate(halves(run.recipe)) if half(k) in found.losses]
    stayed = np.array(
        [[who not in out for who in range(run.num_contributors)] for _, out in there], dtype=bool
    ).reshape(len(there), run.num_contributors)
    half_losses = np.array([found.losses[half(k)] for k, _ in there]).reshape(
        len(there), len(whole)
    )
    bits: Bits = np.array(
        [
            measure(index, background, prompt.ids, answer).bits
            for prompt, answer in zip(run.prompts, found.answers, strict=True)
        ],
        dtype=np.int64,
    )
    given = np.array(given_tokens(index.tokens), dtype=np.float64)
    owned = np.array(index.owned_tokens(), dtype=np.float64) / np.maximum(given, 1)
    return Evidence(
        effects=effects,
        bits=bits,
        stayed=stayed,
        half_losses=half_losses,
        owned=owned,
        none_bits=run.recipe.none_bits,
        seed=run.recipe.seed,
    )


def given_tokens(tokens: Tokens) -> tuple[int, ...]:
    """Return how many tokens each contributor gave, whoever owns them."""
    sizes = np.diff(tokens.ends) - 1
    owners = np.repeat(
        [who for who, _ in tokens.contributions], [n for _, n in tokens.contributions]
    )
    counts = np.bincount(owners, weights=sizes, minlength=tokens.num_contributors)
    return tuple(int(count) for count in counts)


def noise_floor(run: Run, found: Found) -> NoiseFloor | None:
    """Compare the effects of those who were left out from two seeds."""
    again = [who for who in second_seeds(run.recipe) if second(without(who)) in found.losses]
    if not again or second(WHOLE) not in found.losses:
        return None
    first = _effects(found, WHOLE, [without(who) for who in again])
    other = _effects(found, second(WHOLE), [second(without(who)) for who in again])
    return NoiseFloor(
        contributors=tuple(run.recipe.contributors[who] for who in again),
        difference_nats=float(np.sqrt(((first - other) ** 2).mean())),
        effect_nats=float(np.sqrt((np.stack([first, other]) ** 2).mean())),
        r=correlation(first.ravel(), other.ravel()),
    )


def _effects(found: Found, whole: str, names: list[str]) -> Floats:
    return np.stack([found.losses[name] - found.losses[whole] for name in names], axis=1)


def _read(run: Run, name: str) -> Tokens:
    path = run.folder / name
    try:
        return read_tokens(path.read_bytes())
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror}; a run's folder needs it") from error
    except TokensError as error:
        raise BadRun(f"{path}: {error}") from error


def _note(found: Found, evidence: Evidence, fitted: Fitted | None) -> str:
    notes = []
    if fitted is None:
        notes.append(f"no λ: {len(found.answers)} answers, and it needs {MIN_ANSWERS}")
    if not evidence.has_halves:
        notes.append(f"no LDS: {len(evidence.stayed)} halves, and it needs {MIN_HALVES}")
    return "; ".join(notes)

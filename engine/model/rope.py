"""Says by which angle each number of a head turns at each position: rotary embeddings and the ways
in which bases stretch them over longer contexts.

A kind of scaling is a class here, and a line in SCALINGS that reads it. Knows no tensor of a base
and no layer.

Sources: Su et al., RoFormer (arXiv:2104.09864); Peng et al., YaRN (arXiv:2309.00071); Ding et al.,
LongRoPE (arXiv:2402.13753). Each formula runs in the order in which transformers computes it, so
that a frequency has the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch

from ..errors import ModelError
from .fields import Fields

MAX_POSITIONS = 1 << 30


class Scaling(Protocol):
    """Changes the frequencies of rotation, by which a base reaches further than it was trained."""

    @property
    def magnitude(self) -> float:
        """Return by what cosines and sines are multiplied."""

    def frequencies(self, powers: torch.Tensor) -> torch.Tensor:
        """Return the inverse frequencies of `powers [n]`, the base to the power of 2 i / width."""


@dataclass(frozen=True)
class Linear:
    """All frequencies divided by `factor`."""

    factor: float
    magnitude: float = 1.0

    def frequencies(self, powers: torch.Tensor) -> torch.Tensor:
        """See Scaling."""
        return 1.0 / powers / self.factor


@dataclass(frozen=True)
class Smooth:
    """Llama 3's: long waves are divided by `factor`, short ones left, those between blended."""

    factor: float
    low: float
    high: float
    original: int
    magnitude: float = 1.0

    def frequencies(self, powers: torch.Tensor) -> torch.Tensor:
        """See Scaling."""
        plain = 1.0 / powers
        wavelengths = 2 * math.pi / plain
        smooth = (self.original / wavelengths - self.low) / (self.high - self.low)
        smooth = smooth.clamp(0, 1)
        return (1 - smooth) * plain / self.factor + smooth * plain


@dataclass(frozen=True)
class Yarn:
    """YaRN: frequencies from number `first` to `last` go over from the plain ones to those divided
    by `factor`.
    """

    factor: float
    first: float
    last: float
    magnitude: float

    def frequencies(self, powers: torch.Tensor) -> torch.Tensor:
        """See Scaling."""
        last = self.last + 0.001 if self.first == self.last else self.last
        ramp = (torch.arange(len(powers)).float() - self.first) / (last - self.first)
        plain = 1 - ramp.clamp(0, 1)
        return 1.0 / (self.factor * powers) * (1 - plain) + 1.0 / powers * plain


@dataclass(frozen=True)
class Divided:
    """Each frequency divided by a number of its own (LongRoPE's factors, GGUF's rope_freqs)."""

    divisors: tuple[float, ...]
    magnitude: float = 1.0

    def frequencies(self, powers: torch.Tensor) -> torch.Tensor:
        """See Scaling."""
        return 1.0 / (torch.tensor(self.divisors) * powers)


@dataclass(frozen=True)
class Rope:
    """How the heads of some layers rotate: the first `width` numbers of each, by powers of `base`.

    longer: what takes the place of `scaling` in sequences that begin with more than `short` tokens.
    """

    base: float
    width: int
    scaling: Scaling | None = None
    longer: Scaling | None = None
    short: int = 0

    @property
    def num_tables(self) -> int:
        """Return how many tables of angles there are: one, or one more for long sequences."""
        return 1 if self.longer is None else 2

    def frequencies(self, long: bool = False) -> torch.Tensor:
        """Return the inverse frequencies, [width / 2] float32."""
        exponents = torch.arange(0, self.width, 2, dtype=torch.int64).float() / self.width
        powers = self.base**exponents
        scaling = self.longer if long else self.scaling
        return 1.0 / powers if scaling is None else scaling.frequencies(powers)

    def tables(self, context: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines by position, each [positions, head_dim / 2] float32.

        A head's numbers i and i + head_dim / 2 turn together; those that do not rotate have cosine
        1 and sine 0. With `longer`, the angles of long sequences follow from position `context` on.
        """
        kinds = (False, True)[: self.num_tables]
        cosines, sines = [], []
        for long in kinds:
            scaling = self.longer if long else self.scaling
            magnitude = 1.0 if scaling is None else scaling.magnitude
            angles = torch.arange(context).float()[:, None] * self.frequencies(long)[None, :]
            still = head_dim // 2 - self.width // 2
            cosines.append(torch.nn.functional.pad(angles.cos() * magnitude, (0, still), value=1.0))
            sines.append(torch.nn.functional.pad(angles.sin() * magnitude, (0, still)))
        return torch.cat(cosines), torch.cat(sines)


# --- reading: one function for each kind that a configuration may name ---


def _linear(fields: Fields, rope: Rope, context: int) -> Scaling:
    return Linear(fields.real("factor"))


def _smooth(fields: Fields, rope: Rope, context: int) -> Scaling:
    low = fields.real("low_freq_factor")
    high = fields.real("high_freq_factor")
    if low >= high:
        raise ModelError(
            f"config.json: low_freq_factor {low:g} must be less than high_freq_factor {high:g}"
        )
    return Smooth(fields.real("factor"), low, high, original_of(fields))


def _yarn(fields: Fields, rope: Rope, context: int) -> Scaling:
    original = original_of(fields)
    factor = fields.real("factor", context / original)
    magnitude = fields.maybe_real("attention_factor")
    if magnitude is None:
        over, under = (fields.maybe_real(name) for name in ("mscale", "mscale_all_dim"))
        magnitude = (
            _stretched(factor, over) / _stretched(factor, under)
            if over and under
            else _stretched(factor)
        )
    return make_yarn(
        rope,
        factor,
        original,
        fast=fields.real("beta_fast", 32.0),
        slow=fields.real("beta_slow", 1.0),
        whole=fields.flag("truncate", True),
        magnitude=magnitude,
    )


def make_yarn(
    rope: Rope,
    factor: float,
    original: int,
    *,
    fast: float = 32.0,
    slow: float = 1.0,
    whole: bool = True,
    magnitude: float | None = None,
) -> Yarn:
    """Make YaRN's scaling by `factor` of a base that was trained on `original` tokens.

    fast, slow: turns within those tokens above which a frequency is left, and below which it is
    divided. whole: the bounds are rounded outwards. magnitude None: the paper's.
    """
    if rope.base <= 1:
        raise ModelError(f"rope_theta is {rope.base:g}; with yarn it must be more than 1")
    first, last = (
        rope.width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.base))
        for turns in (fast, slow)
    )
    first, last = (math.floor(first), math.ceil(last)) if whole else (first, last)
    return Yarn(
        factor,
        max(first, 0),
        min(last, rope.width - 1),
        _stretched(factor) if magnitude is None else magnitude,
    )


def _stretched(factor: float, weight: float = 1.0) -> float:
    """Return YaRN's magnitude for `factor`."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def long_magnitude(factor: float, original: int) -> float:
    """Return LongRoPE's magnitude for a context `factor` times the `original`."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def original_of(fields: Fields) -> int:
    """Return on how many tokens a base was trained before its context was stretched."""
    return fields.whole("original_max_position_embeddings", highest=MAX_POSITIONS)


SCALINGS: Mapping[str, Callable[[Fields, Rope, int], Scaling]] = MappingProxyType(
    {"linear": _linear, "llama3": _smooth, "yarn": _yarn}
)
"""What reads each kind from a configuration, a rope without scaling and the base's context."""
UNSCALED = ("default", "dynamic")
"""Kinds that change nothing before the context's end, where dynamic scaling would begin."""
LONG = ("longrope", "su")
"""Kinds with one scaling for sequences within the original context, and one for longer ones."""


def read_rope(fields: Fields, rope: Rope, context: int, renamed: Mapping[str, str]) -> Rope:
    """Return `rope` with the scaling that a configuration names; `renamed`: what its family calls
    some kinds. Raises ModelError.
    """
    named = fields["rope_type"] or fields["type"] or "default"
    kind = renamed.get(named, named) if isinstance(named, str) else named
    if kind in UNSCALED:
        return rope
    if kind in LONG:
        return _read_long(fields, rope, context)
    if not isinstance(kind, str) or kind not in SCALINGS:
        served = ", ".join((*UNSCALED, *SCALINGS, LONG[0]))
        raise ModelError(
            f"config.json: rope scaling {str(named)[:40]!r} is not served; we serve {served}"
        )
    return Rope(rope.base, rope.width, SCALINGS[kind](fields, rope, context))


def _read_long(fields: Fields, rope: Rope, context: int) -> Rope:
    original = original_of(fields)
    factor = fields.real("factor", context / original)
    magnitude = fields.real("attention_factor", long_magnitude(factor, original))
    short, long = (
        Divided(fields.reals(name, rope.width // 2), magnitude)
        for name in ("short_factor", "long_factor")
    )
    return make_long(rope, short, long, original, context)


def make_long(rope: Rope, short: Scaling, long: Scaling, original: int, context: int) -> Rope:
    """Return `rope` scaled by `short` within the `original` context, and by `long` beyond it."""
    if context <= original:
        return Rope(rope.base, rope.width, short)
    return Rope(rope.base, rope.width, short, long, original)

"""Reads what a request asks of its draws, out of a request's extra arguments.

    {"lorikeet": {"seed": 64 hex digits, "temperature": 0.7, "logit_bias": [[17, -2.5]], …}}
    {"lorikeet": {"probe": 4711}}

The terms have the names and bounds of Lorikeet's docs/protocols/infer.md. Knows no logits.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

FIELD = "lorikeet"
TOKEN_IDS = 1 << 24

Penalty = Annotated[float, Meta(ge=-100.0, le=100.0)]
TokenId = Annotated[int, Meta(ge=0, lt=TOKEN_IDS)]


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the tokens of one answer are drawn; `answered` of the prompt's last tokens are the
    beginning of the answer.
    """

    seed: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    answered: Annotated[int, Meta(ge=0)] = 0
    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.0
    top_k: Annotated[int, Meta(ge=0, lt=TOKEN_IDS)] = 0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[list[tuple[TokenId, Penalty]], Meta(max_length=1024)] = []

    @property
    def counts(self) -> bool:
        """Return whether earlier tokens change later draws."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    @property
    def filters(self) -> bool:
        """Return whether some ids may not win at all."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0)

    @property
    def takes_best(self) -> bool:
        """Return whether the highest of the model's own logits simply wins."""
        return self.temperature == 0 and not self.logit_bias and not self.counts


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question whether this plug-in draws the tokens; the answer begins with `probe`."""

    probe: TokenId


@dataclass(frozen=True)
class NoiseKey:
    """The key of Philox-4x32 and the upper half of its counter, two words each."""

    key: tuple[int, int]
    nonce: tuple[int, int]


def read_terms(extra: Mapping[str, Any] | None) -> Terms | Probe | None:
    """Read a request's terms; None for a request that is not Lorikeet's.

    Raises ValueError that names the field.
    """
    if not extra or FIELD not in extra:
        return None
    given = extra[FIELD]
    is_probe = isinstance(given, dict) and "probe" in given
    try:
        return msgspec.convert(given, Probe) if is_probe else msgspec.convert(given, Terms)
    except msgspec.ValidationError as error:
        raise ValueError(f"{FIELD}: {error}") from None


def derive_key(seed: str) -> NoiseKey:
    """Derive the key of the noise (docs/protocols/sampling.md)."""
    digest = hashlib.sha256(b"lorikeet noise 1" + bytes.fromhex(seed)).digest()
    k0, k1, n0, n1 = struct.unpack("<4I", digest[:16])
    return NoiseKey((k0, k1), (n0, n1))

"""Decides which limits an answer is held to, and whether it can be judged by this engine at all.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.verdict import MILLION, Thresholds
from proofs.attestation.record import Measured

CALIBRATED = frozenset({"float32", "bfloat16"})
"""Number formats of the honest answers that every adapter's limits come from."""
ALONE = frozenset({"q4", "q4-f32", "torch/q4", "torch/q4-f32", "cuda/q4", "cuda/q4-f32"})
"""Formats whose answers are judged in the same format alone, where they agree to the bit."""

UNCALIBRATED = Thresholds(MILLION, MILLION // 20, MILLION // 20, one_in=1_000_000)
"""For the bare base and for adapters without a calibration: wide, so that whoever computes at all,
in those formats, stays below; junk, another adapter and other dice do not."""


HARDEST = 12
"""By how much the mean of honest margins may exceed what was calibrated over all of them, where a
node and a verifier differ in format and a client always asks at one temperature: of 4 pairings of
two formats and 3 temperatures each has a twelfth, and no margin is negative."""


@dataclass(frozen=True)
class Limits:
    """What honest answers miss by at most, and whether that was measured for this adapter."""

    thresholds: Thresholds
    are_calibrated: bool

    @property
    def mean(self) -> float:
        """Return what honest answers miss by on average at most, in logits, whoever replays them;
        it is below the cap.
        """
        return self.thresholds.mean / MILLION * (HARDEST if self.are_calibrated else 1)


def choose_limits(published: Thresholds | None) -> Limits:
    """Take what an adapter's creator calibrated, unless it is missing or lets more pass than
    UNCALIBRATED, which no honest calibration does: a creator may have nodes of his own.
    """
    if published is None or published.mean * UNCALIBRATED.cap >= UNCALIBRATED.mean * published.cap:
        return Limits(UNCALIBRATED, are_calibrated=False)
    if published.mean > UNCALIBRATED.mean or published.variance > UNCALIBRATED.variance:
        return Limits(UNCALIBRATED, are_calibrated=False)
    return Limits(published, are_calibrated=True)


def thresholds_of(measured: Measured) -> Thresholds:
    """Return what an attested answer was held to."""
    return Thresholds(measured.cap, measured.mean, measured.variance, measured.one_in)


def find_obstacle(served: str, own: str) -> str | None:
    """Return why an answer made in one number format cannot be judged by an engine of another; None
    where it can.
    """
    if served in CALIBRATED and own in CALIBRATED:
        return None
    if served == own and served in ALONE:
        return None
    return (
        f"it was made in {served or 'no named format'}, and limits are known for"
        f" {' and '.join(sorted(CALIBRATED))}, and for 4 bits by the same kernels; this engine"
        f" computes in {own}"
    )

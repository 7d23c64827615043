"""Decides which limits an answer is held to, and whether it can be judged by this engine at all.
Pure.

    made in, replayed in → the same kernels and format → they agree to the bit
                         → measured across             → what its creator found there
                         → formats near each other     → wide limits
                         → others                      → cannot be judged
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.verdict import MILLION, SAME, Calibration, Thresholds
from proofs.attestation.record import Measured

OWN_KERNELS = frozenset({"amx", "vnni", "avx512", "avx2"})
"""What runs on processors and adds in one order, whatever machine it is: an answer replayed by the
same agrees to the bit."""
KERNELS = OWN_KERNELS | {"torch", "cuda", ""}
"""Of our engines; a format without a name before it may be of any of them."""
UNROUNDED = frozenset({"float32", "bfloat16"})
"""Formats that differ by the last bits of a product, and not by rounded weights."""

UNCALIBRATED = Thresholds(MILLION, MILLION // 20, MILLION // 20, one_in=1_000_000)
"""For the bare base and for adapters without a calibration: wide, so that whoever computes at all,
in those formats, stays below; junk, another adapter and other dice do not."""
NARROWEST_CAP = MILLION // 50
"""Limits that are narrower are nobody's: a creator may wish honest nodes ill."""


@dataclass(frozen=True)
class Limits:
    """What honest answers count by at most, and whether the creator measured that for this
    adapter.
    """

    thresholds: Thresholds
    are_calibrated: bool

    @property
    def mean(self) -> float:
        """Return what honest answers score on average at most, in logits; it is below the cap."""
        return self.thresholds.mean / MILLION


def choose_limits(published: Thresholds | None) -> Limits:
    """Take what an adapter's creator calibrated, unless it is missing, or lets more pass than
    UNCALIBRATED, or less than any calibration finds, which no honest one does: a creator may have
    nodes of his own, and others' to harm.
    """
    if published == SAME:
        return Limits(SAME, are_calibrated=False)
    if published is None or published.mean * UNCALIBRATED.cap >= UNCALIBRATED.mean * published.cap:
        return Limits(UNCALIBRATED, are_calibrated=False)
    if published.mean > UNCALIBRATED.mean or published.variance > UNCALIBRATED.variance:
        return Limits(UNCALIBRATED, are_calibrated=False)
    if published.cap < NARROWEST_CAP:
        return Limits(UNCALIBRATED, are_calibrated=False)
    return Limits(published, are_calibrated=True)


def thresholds_of(measured: Measured) -> Thresholds:
    """Return what an attested answer was held to."""
    return Thresholds(measured.cap, measured.mean, measured.variance, measured.one_in)


def find_limits(published: Calibration | None, served: str, own: str) -> Limits | None:
    """Return what an answer made in `served` is held to when an engine of `own` replays it; None
    where nobody knows.
    """
    limits = choose_limits(_find_measured(published, served, own))
    if limits.thresholds != UNCALIBRATED or find_obstacle(served, own) is None:
        return limits
    return None


def _find_measured(published: Calibration | None, served: str, own: str) -> Thresholds | None:
    if agree_to_the_bit(served, own):
        return SAME
    if published is None or not {_kernels(served), _kernels(own)} <= set(published.kernels):
        return None
    formats = (_format(served), _format(own))
    found = (each for each in published.across if (each.made, each.replayed) == formats)
    return next((each.thresholds for each in found), None)


def agree_to_the_bit(served: str, own: str) -> bool:
    """Return whether an honest answer made in one number format is the same to the bit where the
    other replays it.
    """
    return served == own and _kernels(served) in OWN_KERNELS


def find_obstacle(served: str, own: str) -> str | None:
    """Return why an answer made in one number format cannot be judged by an engine of another where
    no creator measured it; None where it can.
    """
    formats = {_format(served), _format(own)}
    are_ours = {_kernels(served), _kernels(own)} <= KERNELS
    if served and are_ours and (len(formats) == 1 or formats <= UNROUNDED):
        return None
    return (
        f"it was made in {served or 'no named format'}, and this engine computes in {own}: no"
        " limits are known for these two"
    )


def _kernels(name: str) -> str:
    return name.rpartition("/")[0]


def _format(name: str) -> str:
    return name.rpartition("/")[2]

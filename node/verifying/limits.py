"""Decides which limits an answer is held to, and whether it can be judged by this engine at all.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.verdict import MILLION, Thresholds

CALIBRATED = frozenset({"float32", "bfloat16"})
"""Number formats of the honest answers that every adapter's limits come from."""
ALONE = frozenset({"q4"})
"""Formats whose answers are judged in the same format alone."""

UNCALIBRATED = Thresholds(MILLION, MILLION // 20, MILLION // 20, one_in=1_000_000)
"""For the bare base and for adapters without a calibration: wide, so that whoever computes at all,
in those formats, stays below; junk, another adapter and other dice do not."""


@dataclass(frozen=True)
class Limits:
    """What honest answers miss by at most, and whether that was measured for this adapter."""

    thresholds: Thresholds
    are_calibrated: bool


def choose_limits(published: Thresholds | None) -> Limits:
    """Take what an adapter's creator calibrated, unless it is missing or lets more pass than
    UNCALIBRATED, which no honest calibration does: a creator may have nodes of his own.
    """
    if published is None or published.mean * UNCALIBRATED.cap >= UNCALIBRATED.mean * published.cap:
        return Limits(UNCALIBRATED, are_calibrated=False)
    if published.mean > UNCALIBRATED.mean or published.variance > UNCALIBRATED.variance:
        return Limits(UNCALIBRATED, are_calibrated=False)
    return Limits(published, are_calibrated=True)


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
        f" {' and '.join(sorted(CALIBRATED))}, and for {' and '.join(sorted(ALONE))} replayed in"
        f" the same; this engine computes in {own}"
    )

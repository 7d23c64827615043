"""What a soak says of memory: a leak is told among peaks, and peaks are no leak."""

from __future__ import annotations

from random import Random

from benchmarks.soak import MAX_SLOPE_MB, Look, slope

HOUR_S = 3600


def hour(mb_an_hour: float, *, warms_mb: float = 30.0) -> list[Look]:
    """Looks at a process that fills its caches in the first quarter, and then grows by so much,
    with peaks of many requests at once.
    """
    dice = Random(1)
    return [
        Look(
            at_s,
            170.0
            + warms_mb * min(at_s / (HOUR_S / 4), 1.0)
            + mb_an_hour * at_s / HOUR_S
            + dice.choice((0.0, 0.0, 0.5, 1.0, 20.0)),
        )
        for at_s in range(0, HOUR_S, 30)
    ]


def test_a_leak_is_told_among_peaks_and_peaks_and_caches_are_none() -> None:
    assert abs(slope(hour(0.0))) < MAX_SLOPE_MB / 8
    assert slope(hour(2 * MAX_SLOPE_MB)) > 1.5 * MAX_SLOPE_MB

"""What can go wrong with a run, and what to do about it.

InfluenceError
├── BadRun        the folder does not hold what a run needs
├── TooEarly      not enough is trained yet to say anything
├── Busy          another process works on it
└── NotFinite     the training diverged
"""

from __future__ import annotations


class InfluenceError(Exception):
    """Something that the person who began the run can mend."""


class BadRun(InfluenceError):
    """A file of the run's folder is missing or says what cannot be; the message names it."""


class TooEarly(InfluenceError):
    """A training is missing without which nothing can be said; start again to go on."""


class Busy(InfluenceError):
    """Another process holds the run's lock."""


class NotFinite(InfluenceError):
    """A loss or a gradient became infinite or no number."""

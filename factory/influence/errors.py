"""What can go wrong with a run, and what to do about it.

FactoryError
└── InfluenceError
    ├── TooEarly      not enough is trained yet to say anything
    └── NotFinite     the training diverged
"""

from __future__ import annotations

from ..errors import FactoryError


class InfluenceError(FactoryError):
    """Something that the person who began the run can mend."""


class TooEarly(InfluenceError):
    """A training is missing without which nothing can be said; start again to go on."""


class NotFinite(InfluenceError):
    """A loss or a gradient became infinite or no number."""

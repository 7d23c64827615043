"""What can go wrong in any room of the factory.

FactoryError
├── BadRun        the folder of a run does not hold what it needs
└── Busy          another process works on it
"""

from __future__ import annotations


class FactoryError(Exception):
    """Something that the person who asked can mend; the message names the thing and the mend."""


class BadRun(FactoryError):
    """A file of a run's folder is missing or says what cannot be; the message names it."""


class Busy(FactoryError):
    """Another process holds the lock of a run."""

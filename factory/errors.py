"""What can go wrong in any room of the factory.

FactoryError
└── Busy          another process works on it
"""

from __future__ import annotations


class FactoryError(Exception):
    """Something that the person who asked can mend; the message names the thing and the mend."""


class Busy(FactoryError):
    """Another process holds the lock of a run."""

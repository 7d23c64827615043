"""Names everything that can go wrong in the engine, drawn once.

    CannotServe
    ├── InvalidRequest    the daemon asked for something that cannot be (names the field)
    ├── UnknownAdapter    nobody held it first (HoldAdapter)
    ├── Busy              a bound is reached; retry later
    ├── BadAdapter        the adapter's bytes cannot be served (names the tensor or field)
    ├── ModelError        the base's files cannot be served
    ├── OutOfDeviceMemory a step did not fit into the device's memory: its requests fail, the
                          engine goes on
    ├── DeviceLost        the device answers no more: the process ends, and the daemon starts
                          another
    └── BorderError       a frame from the other side cannot be read: the connection is lost

A broken invariant of our own is an AssertionError. The node draws a tree of its own, whose names
are others: what crosses the border between the two is a FailureCode, never an exception.
"""

from __future__ import annotations


class CannotServe(Exception):
    """Base of all errors of this package; the message names the thing and the mend."""


class InvalidRequest(CannotServe):
    """The request can never run as it is."""


class UnknownAdapter(CannotServe):
    """No such adapter is held."""


class Busy(CannotServe):
    """A bound is reached for now."""


class BadAdapter(CannotServe):
    """An adapter's files cannot be served."""


class ModelError(CannotServe):
    """A base model's files cannot be served."""


class OutOfDeviceMemory(CannotServe):
    """The device's memory ran out for now."""


class DeviceLost(CannotServe):
    """The device failed in a way that only a new process mends."""


class BorderError(CannotServe):
    """The other side of the border sent bytes that are not a message."""

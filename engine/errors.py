"""Names everything that can go wrong in the engine, drawn once.

    EngineError
    ├── BadRequest        the daemon asked for something that cannot be (names the field)
    ├── UnknownAdapter    nobody held it first (HoldAdapter)
    ├── Busy              a bound is reached; retry later
    ├── AdapterError      the adapter's bytes cannot be served (names the tensor or field)
    ├── ModelError        the base's files cannot be served
    ├── OutOfDeviceMemory a step did not fit into the device's memory: its requests fail, the engine
    goes on
    ├── DeviceLost        the device answers no more: the process ends, and the daemon starts
                          another
    └── BorderError       a frame from the other side cannot be read: the connection is lost

A broken invariant of our own is an AssertionError.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors of this package; the message names the thing and the mend."""


class BadRequest(EngineError):
    """The request can never run as it is."""


class UnknownAdapter(EngineError):
    """No such adapter is held."""


class Busy(EngineError):
    """A bound is reached for now."""


class AdapterError(EngineError):
    """An adapter's files cannot be served."""


class ModelError(EngineError):
    """A base model's files cannot be served."""


class OutOfDeviceMemory(EngineError):
    """The device's memory ran out for now."""


class DeviceLost(EngineError):
    """The device failed in a way that only a new process mends."""


class BorderError(EngineError):
    """The other side of the border sent bytes that are not a message."""

"""Names what can go wrong with intake itself; what is wrong with a document is a finding.

    IntakeError
    ├── NotReady   a package of the extra `intake` is missing: install it
    ├── Stopped    the caller asked to stop; the child is gone
    ├── TooHard    the checks went past their limits: give less at once
    └── Broken     a trace, a sketch, a report or a child's answer is not what it should be

`Refusal` is how a parser says no to one file; it never leaves this package.
"""

from __future__ import annotations


class IntakeError(Exception):
    """Base of all errors of this package; the message names the thing and the mend."""


class NotReady(IntakeError):
    """A package that intake needs is not installed."""


class Stopped(IntakeError):
    """The caller asked to stop."""


class TooHard(IntakeError):
    """The checks did not end within their limits."""


class Broken(IntakeError):
    """Bytes that should have been written by this package were not."""


class Refusal(Exception):
    """One file cannot be taken; `code` is a finding's."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

"""Names what can go wrong with the server behind the bridge.

BridgeError
├── Unfit          this server cannot serve this network's base: another try would fail alike
├── ServerLost     it is gone, or is another process than before: this process ends, and the
                   daemon starts another
├── ServerBroke    it broke off in the middle of an answer, or sent what is none
└── ServerRefused  it said no to one thing that was asked, with an HTTP status
"""

from __future__ import annotations


class BridgeError(Exception):
    """Base of all errors of this package; the message names the thing and the mend."""


class Unfit(BridgeError):
    """The server is not one that can be used."""


class ServerLost(BridgeError):
    """The server is gone, and with it every request and every adapter."""


class ServerBroke(BridgeError):
    """One answer of the server ended in its middle or made no sense."""


class ServerRefused(BridgeError):
    """The server refused one request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message or f"it answered {status} without a word")
        self.status = status

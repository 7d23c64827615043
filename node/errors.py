"""Every error that a daemon raises, as one tree. Decides nothing.

NodeError
├── ConfigError            the operator's file or environment
├── BadRequest             what was asked makes no sense
│   └── UnknownModel       no such name, CID or peer
├── AdapterError           an adapter that cannot be served or published
│   └── WrongBase          made for another base
├── EngineError            the engine behind this daemon
│   ├── NoEngine           this daemon runs none
│   ├── EngineLost         it died under a request; it is being restarted
│   ├── EngineBusy         it has no room now
│   └── EngineFailed       it refused or failed this one request
├── RemoteError            another node
│   ├── NoProvider         nobody serves this now
│   ├── NodeRefused        it said no, and why
│   ├── NodeVanished       it went away in mid-answer
│   └── NodeCheated        it signed or sent something that is not true
└── PaymentError           money between client and node
    ├── PaymentRequired    credit ran out or was never given
    └── NoChannel          no open channel, or not enough in it
"""

from __future__ import annotations

from collections.abc import Sequence


class NodeError(Exception):
    """Anything a daemon reports to whoever asked; the message names the thing and the mend."""


class ConfigError(NodeError):
    """A configuration value is missing or wrong."""


class BadRequest(NodeError):
    """The request cannot be served as asked."""


class UnknownModel(BadRequest):
    """No adapter answers to this text. `closest` are names that exist and look like it."""

    def __init__(self, model: str, closest: Sequence[str] = ()) -> None:
        hint = (
            f"; did you mean {', '.join(closest)}?"
            if closest
            else "; `lorikeet list` shows what is known"
        )
        super().__init__(f"no adapter named {model!r} was found on the network{hint}")
        self.closest = tuple(closest)


class AdapterError(NodeError):
    """An adapter cannot be read, published or served."""


class WrongBase(AdapterError):
    """The adapter was made for another base than the one served here."""


class EngineError(NodeError):
    """The engine could not do it."""


class NoEngine(EngineError):
    """This daemon runs no engine."""


class EngineLost(EngineError):
    """The engine process ended under the request; it is restarted, so ask again in some seconds."""


class EngineBusy(EngineError):
    """The engine has no room for another request now."""


class EngineFailed(EngineError):
    """The engine refused or failed this request alone."""


class RemoteError(NodeError):
    """Another node could not, or would not."""


class NoProvider(RemoteError):
    """No reachable node serves this."""


class NodeRefused(RemoteError):
    """The node declined before it began. `code` is one word of docs/protocols/infer.md."""

    def __init__(self, peer_id: str, code: str, message: str) -> None:
        super().__init__(f"node {peer_id[-8:]} refused ({code}): {message}")
        self.code = code


class NodeVanished(RemoteError):
    """The node went away or fell silent while it owed us something."""


class NodeCheated(RemoteError):
    """The node sent or signed something that our own count contradicts."""


class PaymentError(NodeError):
    """Money between a client and a node."""


class PaymentRequired(PaymentError):
    """The node was not paid for what it is asked to do."""


class NoChannel(PaymentError):
    """There is no usable channel between this client and that node."""


_CODES: tuple[tuple[type[NodeError], str], ...] = (
    (UnknownModel, "unknown_adapter"),
    (BadRequest, "bad_request"),
    (WrongBase, "wrong_base"),
    (AdapterError, "adapter_refused"),
    (EngineLost, "engine_lost"),
    (EngineBusy, "busy"),
    (EngineError, "engine_failed"),
    (NoProvider, "no_provider"),
    (PaymentRequired, "payment_required"),
    (NoChannel, "no_channel"),
)


def code_of(error: NodeError) -> str:
    """The one word that tells a client what kind of no this is (docs/protocols/infer.md)."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), "internal")

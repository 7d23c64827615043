"""Every error that a daemon raises, as one tree. Decides nothing.

NodeError
├── ConfigError            the operator's file or environment
├── BadRequest             what was asked makes no sense
│   ├── UnknownModel       no such name, CID or peer
│   ├── NoReceipt          none here has that digest
│   ├── NotHere            no run, no datanet of that name
│   └── DatanetRefused     a datanet's rules forbid it; code, document, detail, mend
├── AdapterError           an adapter that cannot be served or published
│   ├── WrongBase          made for another base
│   ├── RegisteredElsewhere  its weights are somebody else's
│   └── RoyaltyUnpaid      it does not pay those whose adapters it was made of
├── EngineError            the engine behind this daemon
│   ├── NoEngine           this daemon runs none
│   ├── NoBase             its base is still on its way
│   ├── EngineLost         it died under a request; it is being restarted
│   ├── EngineBusy         it has no room now
│   └── EngineFailed       it refused or failed this one request
├── RemoteError            another node
│   ├── NoProvider         nobody serves this now
│   ├── NodeRefused        it said no, and why
│   ├── NodeVanished       it went away in mid-answer
│   ├── OtherParameters    it goes by other decisions of the network's people
│   ├── NodeCheated        it signed or sent something that is not true
│   └── NodeAtOdds         it says one thing and this daemon another: nobody knows who is wrong
└── PaymentError           money between client and node
    ├── PaymentRequired    credit ran out or was never given
    └── NoChannel          no open channel, or not enough in it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

RefusalCode = Literal[
    "bad_request",
    "unknown_adapter",
    "adapter_refused",
    "wrong_base",
    "no_provider",
    "busy",
    "engine_lost",
    "engine_failed",
    "internal",
    "payment_required",
    "no_channel",
]
"""The one word by which a node tells a client what kind of no this is (docs/protocols/infer.md)."""


class NodeError(Exception):
    """Anything that a daemon reports to whoever asked; the message names the fault and how to fix
    it.

    What is declared here, and inherited, is all that the faces and the wire know of an error.
    """

    code: RefusalCode = "internal"
    """What a client on another node is told."""
    elsewhere: ClassVar[bool] = True
    """Whether another node may do what this one did not."""
    status: ClassVar[int] = 500
    """HTTP's."""
    http_code: ClassVar[str | None] = None
    """The word over HTTP, where it is not `code`."""
    field: ClassVar[str | None] = None
    """The request's field at fault, where there is one."""


class ConfigError(NodeError):
    """A configuration value is missing or wrong."""

    http_code = "misconfigured"


class BadRequest(NodeError):
    """The request cannot be served as asked."""

    code: RefusalCode = "bad_request"
    elsewhere = False
    status = 400


class NoReceipt(BadRequest):
    """No receipt here has this digest."""

    status = 404
    http_code = "no_receipt"
    field = "digest"

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"there is no receipt {digest!r} here; `lorikeet receipts` lists what there is"
        )


class NotHere(BadRequest):
    """Nothing of that name is here: a run, a datanet."""

    status = 404
    http_code = "not_found"


class UnknownModel(BadRequest):
    """No adapter answers to this text. `closest` lists existing names that look like it."""

    code = "unknown_adapter"
    status = 404
    http_code = "model_not_found"
    field = "model"

    def __init__(
        self, model: str, closest: Sequence[str] = (), *, is_withdrawn: bool = False
    ) -> None:
        self.closest = tuple(closest)
        if is_withdrawn:
            name = model.rpartition("@")[0] or model
            super().__init__(
                f"{model!r} was withdrawn by its creator; `lorikeet versions {name}` lists what is"
                " left"
            )
            return
        hint = (
            f"; did you mean {', '.join(closest)}?"
            if closest
            else "; `lorikeet list` shows what is known"
        )
        super().__init__(f"no adapter named {model!r} was found on the network{hint}")


class DatanetRefused(BadRequest):
    """A datanet, or who writes its log, does not take this. `document` counts from 1; 0 is the
    whole.
    """

    field = "datanet"

    def __init__(self, code: str, detail: str, mend: str, document: int = 0) -> None:
        where = f" (document {document})" if document else ""
        super().__init__(f"{code}{where}: {detail}; {mend}")
        self.reason = code
        self.detail = detail
        self.mend = mend
        self.document = document


class AdapterError(NodeError):
    """An adapter cannot be read, published or served."""

    code: RefusalCode = "adapter_refused"
    elsewhere = False
    status = 400
    field = "model"


class WrongBase(AdapterError):
    """The adapter was made for another base than the one served here."""

    code = "wrong_base"
    elsewhere = True


class RegisteredElsewhere(AdapterError):
    """A registry gives the adapter's weights to somebody who did not sign its manifest."""


class RoyaltyUnpaid(AdapterError):
    """An adapter was made of others, as its registration says, and does not pay their royalties."""


class EngineError(NodeError):
    """The engine could not do what was asked."""

    code: RefusalCode = "engine_failed"


class NoEngine(EngineError):
    """This daemon runs no engine."""

    status = 503
    http_code = "no_engine"


class NoBase(EngineError):
    """The base that this daemon computes on, or asks others for, is still on its way here."""

    status = 503
    http_code = "no_base"


class EngineLost(EngineError):
    """The engine process ended during the request; it is restarting, so retry in a few seconds."""

    code = "engine_lost"
    status = 503


class EngineBusy(EngineError):
    """The engine has no room for another request now."""

    code = "busy"
    status = 503


class EngineFailed(EngineError):
    """The engine refused or failed this one request."""


class RemoteError(NodeError):
    """Another node could not, or would not."""

    status = 502
    http_code: ClassVar[str | None] = "node_failed"


class NoProvider(RemoteError):
    """No reachable node serves this."""

    code = "no_provider"
    status = 503
    http_code = None
    field = "model"


class NodeRefused(RemoteError):
    """The node declined before it began, with one of the protocol's codes."""

    def __init__(self, peer_id: str, code: RefusalCode, message: str) -> None:
        super().__init__(f"node {peer_id[-8:]} refused ({code}): {message}")
        self.code = code


class NodeVanished(RemoteError):
    """The node disconnected or fell silent while it owed us something."""


class NodeCheated(RemoteError):
    """The node sent or signed something that our own count contradicts, and no honest one does:
    it loses its weight here.
    """


class NodeAtOdds(RemoteError):
    """The node sent or signed something that does not fit what this daemon knows, as an honest one
    does too: after a restart, when streams break, when prices change.
    """


class OtherParameters(RemoteError):
    """The node goes by another version of the network's parameters than is in force here."""


class PaymentError(NodeError):
    """A fault in the payment between a client and a node."""

    elsewhere = False
    status = 402
    http_code: ClassVar[str | None] = "payment_required"


class PaymentRequired(PaymentError):
    """The node was not paid for what it is asked to do."""

    code = "payment_required"


class NoChannel(PaymentError):
    """There is no usable channel between this client and that node."""

    code = "no_channel"
    http_code = None


def _declared(kind: type[NodeError]) -> Mapping[RefusalCode, type[NodeError]]:
    found = {kind.code: kind} if "code" in vars(kind) else {}
    for child in kind.__subclasses__():
        found |= _declared(child)
    return found


BY_CODE: Mapping[RefusalCode, type[NodeError]] = _declared(NodeError)
"""What each word of the protocol stands for: the one class that declares it."""
assert BY_CODE.keys() == set(get_args(RefusalCode))

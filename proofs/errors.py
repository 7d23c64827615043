"""Names what can be wrong with a proof.

    ProofError
    ├── BadSignature     no key made this signature, or not in the only form that we accept
    ├── ReceiptError     a receipt breaks an invariant; `invariant` names it
    ├── VoucherError     a voucher or its channel does not pay for what it should; `invariant` names
                         it
    ├── ManifestError    an adapter's manifest is not acceptable; `field` names what is wrong
    ├── BaseCardError    a base's card is not acceptable; `field` names what is wrong
    ├── AttestationError a verifier's verdict is not acceptable; `rule` names what is wrong
    ├── EvidenceError    bytes show no offence that costs stake; `rule` names what is missing
    ├── BaseIndexError   a list of a base's files is not acceptable; `rule` names what is wrong
    ├── DatanetError     a record of a datanet, or its place in the log, is not acceptable; `code`,
                         `document`, `detail` and `mend` say what, where and what to do
    ├── TokensError      an adapter's text is not acceptable; `rule` names what is wrong
    ├── StaleIndex       the cached index of a text is not that text's, or is spoilt
    ├── ParametersError  a network's parameters are not acceptable; `rule` names what is wrong
    ├── BatchError       a published batch is not what its aggregator claims; `invariant` names it
    └── LedgerError      the ledger cannot do what is asked
        ├── LedgerConflict   somebody else already wrote something different there
        ├── LedgerFull       the disk is full; nothing was written, nothing is lost
        └── UnknownEntry     there is no such entry

Whose fault: that of the sender of the bytes; a stale index, an error of the ledger are ours or that
of a second process on the same file.
"""

from __future__ import annotations


class ProofError(Exception):
    """Base: something that should prove something does not."""


class BadSignature(ProofError):
    """No key made this signature, or it is not in the one accepted form (65 bytes, low s, v 27 or
    28).
    """


class ReceiptError(ProofError):
    """A receipt, or the envelope it came in, breaks an invariant."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


class VoucherError(ProofError):
    """A voucher or its channel does not pay for what it should."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


class ManifestError(ProofError):
    """An adapter's manifest is not acceptable."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"manifest {field}: {message}")
        self.field = field


class BaseCardError(ProofError):
    """A base's card is not acceptable."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"base card {field}: {message}")
        self.field = field


class AttestationError(ProofError):
    """A verifier's signed verdict is not acceptable."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"attestation {rule}: {message}")
        self.rule = rule


class EvidenceError(ProofError):
    """These bytes show no offence that costs somebody's stake."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"evidence {rule}: {message}")
        self.rule = rule


class BaseIndexError(ProofError):
    """A list of a base's files is not acceptable."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"base index {rule}: {message}")
        self.rule = rule


class DatanetError(ProofError):
    """A record of a datanet, or its place in the log, is not acceptable.

    `document` counts from 1; 0 is the whole.
    """

    def __init__(self, code: str, detail: str, mend: str, document: int = 0) -> None:
        where = f" (document {document})" if document else ""
        super().__init__(f"datanet {code}{where}: {detail}; {mend}")
        self.code = code
        self.detail = detail
        self.mend = mend
        self.document = document


class TokensError(ProofError):
    """An adapter's text, as token ids, is not acceptable."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"attribution tokens {rule}: {message}")
        self.rule = rule


class StaleIndex(ProofError):
    """A cached index is not that of the text at hand, or was spoilt: build it anew."""


class ParametersError(ProofError):
    """A network's parameters, or a change of them, are not acceptable."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"parameters {rule}: {message}")
        self.rule = rule


class BatchError(ProofError):
    """A published batch is not what its aggregator claims."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


class LedgerError(ProofError):
    """The ledger cannot do what is asked."""


class LedgerConflict(LedgerError):
    """Something different is already written there; a second process on the same file is the usual
    reason.
    """


class LedgerFull(LedgerError):
    """The disk is full: nothing was written, nothing is lost. Free some space, and try again."""


class UnknownEntry(LedgerError):
    """There is no such entry in the ledger."""

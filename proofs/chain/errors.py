"""What can go wrong between us and a chain.

ChainError
├── ChainUnreachable      nobody answers at the RPC address, or not in time
│   └── OversizedAnswer   the answer is larger, or takes longer, than we allow
├── OddAnswer             somebody answers, but not what was asked: null for a block, a word for a
│                         number
├── WrongChain            somebody answers, but it is not the chain or the contract that we were
│                         told
├── FeeTooHigh            gas costs more than the operator allows, or so the node says
├── RpcRefused            the node refuses the request (its code and words are kept)
│   ├── NonceTaken        another transaction of this key took the nonce
│   ├── Underpriced       the transaction offers too little for its gas
│   └── ContractReverted  the contract refuses; `error` is the name of its custom error, `values`
    its values
├── TransactionFailed     a transaction was mined and failed, without telling why
├── TransactionStuck      a transaction was sent and not mined before the deadline
└── HeaderConflict        the chain has another header for an epoch than we do

KeystoreError             an encrypted key does not open; no chain is to blame
"""

from __future__ import annotations


class ChainError(Exception):
    """Something between us and the chain went wrong."""


class ChainUnreachable(ChainError):
    """Nobody answers at the RPC address, or not in time; try again, or name another RPC."""


class OversizedAnswer(ChainUnreachable):
    """An answer is larger, or takes longer, than we allow; ask for less at a time."""


class OddAnswer(ChainError):
    """What answers is not what was asked for: null for a block, a word for a number. Name another
    RPC if it goes on.
    """


class FeeTooHigh(ChainError):
    """Gas costs more than the operator allows, or the node says so.

    Nothing is sent; wait, raise max_fee_gwei or max_tip_gwei, or name another RPC.
    """


class WrongChain(ChainError):
    """What answers is not the chain or the contract that we were told; check the configuration."""


class RpcRefused(ChainError):
    """The node refuses a request."""

    def __init__(self, code: int, message: str, data: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class NonceTaken(RpcRefused):
    """Another transaction of this key took the nonce."""


class Underpriced(RpcRefused):
    """The transaction offers too little: less than the base fee, or not enough more than the one it
    replaces.
    """


class ContractReverted(RpcRefused):
    """A contract refuses a call.

    `error` names its custom error ("NotAggregator"), `values` are the error's arguments.
    """

    def __init__(self, error: str, values: tuple[object, ...], sentence: str, data: bytes) -> None:
        shown = ", ".join(
            f"0x{value.hex()}" if isinstance(value, bytes) else str(value) for value in values
        )
        super().__init__(
            3, f"{error}({shown}): {sentence}" if sentence else f"{error}({shown})", data
        )
        self.error = error
        self.values = values


class TransactionFailed(ChainError):
    """A transaction was mined and failed."""


class TransactionStuck(ChainError):
    """A transaction was sent and not mined before the deadline; it may still be mined later."""


class HeaderConflict(ChainError):
    """The chain has another header for this epoch: two aggregators, or a ledger that was restored
    from a backup.
    """


class KeystoreError(Exception):
    """An encrypted key does not open: it is no keystore, or the password is another one."""

"""Names everything that p2p raises, drawn as a tree.

A name says whose fault it is; a message names the thing and the mend.

P2pError
├── InvalidInput                 the caller's or a peer's bytes are not what they claim
│   ├── InvalidPeerId
│   ├── InvalidCid
│   ├── InvalidAddress
│   ├── InvalidIdentity          a key file that is not a key
│   ├── InvalidNameRecord
│   ├── InvalidLookup
│   └── FrameTooLarge
├── PeerUnreachable              no address of the peer answered
│   └── ProtocolRefused          it answered, but does not speak the protocol
├── PeerTimeout                  it speaks, but too slowly
├── StreamClosed                 it ended or reset the stream
├── StaleName                    a newer record of this name exists
├── NameRefused                  others are there, and none of them takes the record
├── MessageTooLarge              our own gossip message is over the limit
├── BlockMismatch                bytes do not hash to their CID
├── FetchFailed                  blocks are missing after all providers and the deadline
├── BanRefused                   the operator's ban, or its end, cannot be
└── HostFailed                   the host cannot start (no address to listen on)
"""

from __future__ import annotations


class P2pError(Exception):
    """Base of everything that p2p raises on purpose."""


class InvalidInput(P2pError, ValueError):
    """Bytes or text that are not what they claim to be."""


class InvalidPeerId(InvalidInput):
    """Not the peer id of a secp256k1 key."""


class InvalidCid(InvalidInput):
    """Not a CIDv1 of raw bytes under sha2-256 in base32."""


class InvalidAddress(InvalidInput):
    """Not a multiaddress that ends in /p2p/PEERID."""


class InvalidIdentity(InvalidInput):
    """A secret or a key file that is not 32 bytes of a secp256k1 key."""


class InvalidNameRecord(InvalidInput):
    """A name record that is not canonical, not bounded or not signed by its owner."""


class InvalidLookup(InvalidInput):
    """A look-up, or its answer, that is not what the protocol says."""


class FrameTooLarge(InvalidInput):
    """A frame over the stream's limit, announced or about to be sent."""


class PeerUnreachable(P2pError):
    """No address of the peer led to a connection."""


class ProtocolRefused(PeerUnreachable):
    """The peer is there but does not speak the protocol, or took too many streams from us
    already.
    """


class PeerTimeout(P2pError):
    """The peer did not act before the deadline."""


class StreamClosed(P2pError):
    """The peer ended or reset the stream, or it was closed here."""


class StaleName(P2pError):
    """A record of this name that wins against the given one is known; `sequence` is its own."""

    def __init__(self, message: str, sequence: int) -> None:
        super().__init__(message)
        self.sequence = sequence


class NameRefused(P2pError):
    """Every peer that answered refused a name's record."""


class MessageTooLarge(P2pError):
    """A gossip message over the limit was about to be published."""


class BlockMismatch(P2pError):
    """Bytes do not hash to the CID they were given under."""


class FetchFailed(P2pError):
    """Blocks are still missing.

    `missing` holds their CIDs as text, `reasons` what each provider did.
    """

    def __init__(
        self, message: str, missing: tuple[str, ...] = (), reasons: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message)
        self.missing = missing
        self.reasons = reasons


class BanRefused(P2pError):
    """A peer cannot be banned, or is not; nothing has changed."""


class HostFailed(P2pError):
    """The libp2p host cannot start."""


def sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error inside nested groups of one, so that callers can catch it by its name.

    Returns the group that branches if there are several.
    """
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error

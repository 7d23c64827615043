"""The parameters that a network's people decide: names, kinds, defaults and bounds, their one byte
form, and which version of them is in force.

Normative text: docs/protocols/governance.md.

    versions, as the chain has them → rule_on → Ruling     what a node applies, and what it refuses

What was voted counts within the bounds that stand here, and nowhere else: told to leave them, a
node goes on with the value before, and says so. Knows no contract and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from .digest import keccak
from .errors import ParametersError

NAME_BYTES = 32
VALUE_BYTES = 32
ROW_BYTES = NAME_BYTES + VALUE_BYTES
MAX_PARAMETERS = 64
MAX_NAME_CHARS = NAME_BYTES - 1  # a zero ends it, so no name's word begins another's
MAX_NUMBER = (1 << 63) - 1
WHOLE_BPS = 10_000
NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")

NODE_SHARE = "shares.node"
CREATOR_SHARE = "shares.creator"
ATTRIBUTION_RULE = "attribution.rule"
MOST_LAMBDA = "attribution.most-lambda"
LEAST_FEE = "fees.least-for-a-share"
PROMPT_FLOOR = "prices.prompt-floor"
COMPLETION_FLOOR = "prices.completion-floor"
AUDIT_ONE_IN = "audit.one-in"
MOST_ANSWER_TOKENS = "serving.most-answer-tokens"
PROMISE_S = "settling.promise"
STAKE_PER_ANSWER = "stake.per-answer"

LADDER_1 = int("c2d267a8709560cbf980c6874373723cc28d5f2f63864ffddc9a7ff2927eb072", 16)
"""The sha-256 of tests/golden/ladder.json, the vectors of the one rule that is computed here."""


class Kind(IntEnum):
    """What a value is. The numbers are the contract's."""

    COUNT = 0
    BASIS_POINTS = 1
    AMOUNT = 2  # of the fee token's smallest unit
    SECONDS = 3
    DIGEST = 4

    @property
    def most(self) -> int:
        """The largest value of this kind, which the contract takes."""
        if self is Kind.DIGEST:
            return (1 << 8 * VALUE_BYTES) - 1
        return WHOLE_BPS if self is Kind.BASIS_POINTS else MAX_NUMBER


@dataclass(frozen=True)
class Parameter:
    """One parameter: what it is, what holds before anybody votes, and the bounds, both included,
    that no node leaves.

    `unit`: in words, as people read it.
    """

    name: str
    kind: Kind
    unit: str
    default: int
    least: int
    most: int
    meaning: str

    def refuse(self, value: int) -> str:
        """Return why no node applies this value; empty where it does."""
        if self.least <= value <= self.most:
            return ""
        if self.kind is Kind.DIGEST:
            return "this program computes another one, and no other"
        return f"{value} is not within {self.least} to {self.most}"


PARAMETERS = (
    Parameter(
        NODE_SHARE,
        Kind.BASIS_POINTS,
        "basis points of a fee",
        default=6_000,
        least=2_000,
        most=7_000,
        meaning="the part of the node that answered; the bare base's fee is all the node's",
    ),
    Parameter(
        CREATOR_SHARE,
        Kind.BASIS_POINTS,
        "basis points of a fee",
        default=2_500,
        least=1_000,
        most=3_000,
        meaning="the part of the adapter's creator; what is left is its contributors', or his where"
        " there are none. No vote takes him below the least",
    ),
    Parameter(
        ATTRIBUTION_RULE,
        Kind.DIGEST,
        "sha-256 of the rule's vectors",
        default=LADDER_1,
        least=LADDER_1,
        most=LADDER_1,
        meaning="how an answer's bits are counted; another rule needs another program",
    ),
    Parameter(
        MOST_LAMBDA,
        Kind.COUNT,
        "eighths of the contributors' part",
        default=8,
        least=0,
        most=8,
        meaning="how much of it follows what an answer drew on, at most; a manifest may say less",
    ),
    Parameter(
        LEAST_FEE,
        Kind.AMOUNT,
        "units of the fee token",
        default=100,
        least=1,
        most=10_000,
        meaning="what an answer costs at least for each that may share its fee",
    ),
    Parameter(
        PROMPT_FLOOR,
        Kind.AMOUNT,
        "units of the fee token for a token",
        default=0,
        least=0,
        most=100,
        meaning="what no node asks less than for a token of prompt",
    ),
    Parameter(
        COMPLETION_FLOOR,
        Kind.AMOUNT,
        "units of the fee token for a token",
        default=0,
        least=0,
        most=500,
        meaning="what no node asks less than for a token of answer",
    ),
    Parameter(
        AUDIT_ONE_IN,
        Kind.COUNT,
        "bought answers",
        default=100,
        least=5,
        most=100_000,
        meaning="one in so many is replayed, at least, by a node that replays any",
    ),
    Parameter(
        MOST_ANSWER_TOKENS,
        Kind.COUNT,
        "tokens",
        default=2_048,
        least=64,
        most=8_192,
        meaning="what another node is asked for, at most, where a request does not say how many",
    ),
    Parameter(
        PROMISE_S,
        Kind.SECONDS,
        "seconds",
        default=600,
        least=60,
        most=86_400,
        meaning="within which an aggregator promises, at the latest, to have a receipt in a header",
    ),
    Parameter(
        STAKE_PER_ANSWER,
        Kind.COUNT,
        "hundredths of the stake contract's perAnswer",
        default=100,
        least=1,
        most=1_000,
        meaning="what must stand behind a node for each answer that it announces to make at once",
    ),
)
"""Every parameter that this program knows, in the order in which a network declares them. New ones
go to the end; the least and most of a role's part leave room for the others' whatever is voted.
"""

BY_NAME: Mapping[str, Parameter] = MappingProxyType({one.name: one for one in PARAMETERS})
Values = Mapping[str, int]
DEFAULTS: Values = MappingProxyType({one.name: one.default for one in PARAMETERS})


@dataclass(frozen=True)
class Version:
    """One version of a network's parameters, as its contract has it.

    `since`: when it was written, in Unix seconds of the chain. `values`: of each parameter that the
    contract knows, in its order; some of them this program may not know.
    """

    number: int
    since: int
    values: Values


@dataclass(frozen=True)
class Refusal:
    """A value that was voted and that nobody here applies; `kept` is applied instead."""

    name: str
    value: int
    kept: int
    reason: str


@dataclass(frozen=True)
class Ruling:
    """What holds under one version: a value for every parameter of this program.

    `version` 0 is a network without a contract of parameters. `unknown`: names that a later program
    knows.
    """

    version: int
    values: Values
    refusals: tuple[Refusal, ...] = ()
    unknown: tuple[str, ...] = ()


UNGOVERNED = Ruling(0, DEFAULTS)


def rule_on(versions: Iterable[Version]) -> Ruling:
    """Return what holds under the last of these versions, which come in their order from the first.

    Of each parameter that is the last value within its bounds, so whoever starts late and whoever
    was there all along apply the same.
    """
    ruling = UNGOVERNED
    for version in versions:
        ruling = _follow(ruling, version)
    return ruling


def _follow(before: Ruling, version: Version) -> Ruling:
    values = dict(before.values)
    refusals = []
    for parameter in PARAMETERS:
        value = version.values.get(parameter.name, parameter.default)
        reason = parameter.refuse(value)
        if reason:
            refusals.append(Refusal(parameter.name, value, values[parameter.name], reason))
        else:
            values[parameter.name] = value
    unknown = tuple(name for name in version.values if name not in BY_NAME)
    return Ruling(version.number, MappingProxyType(values), tuple(refusals), unknown)


def in_force(versions: Sequence[Version], began_at: int) -> Sequence[Version]:
    """Return the versions, from the first, whose last is in force in the epoch that began then.

    `began_at`: when the header before was posted, in Unix seconds of the chain; 0: none was.

    A version that is written in the middle of an epoch waits for the next one. The first version is
    in force from the beginning.
    """
    written = [one for one in versions if one.since <= began_at]
    return written or versions[:1]


# ── the one byte form ──


def encode_parameters(values: Values) -> bytes:
    """Return the one byte form: for each parameter in its contract's order the name, filled with
    zeros to 32 bytes, and the value, big-endian in 32 bytes. Raises ParametersError.
    """
    if len(values) > MAX_PARAMETERS:
        raise ParametersError("size", f"{len(values)} parameters; at most {MAX_PARAMETERS} fit")
    return b"".join(name_word(name) + value_word(name, value) for name, value in values.items())


def decode_parameters(data: bytes) -> dict[str, int]:
    """Read bytes nobody vouched for. Raises ParametersError."""
    if len(data) % ROW_BYTES or len(data) > MAX_PARAMETERS * ROW_BYTES:
        raise ParametersError(
            "size",
            f"{len(data)} bytes; rows have {ROW_BYTES}, and there are at most {MAX_PARAMETERS}",
        )
    rows = [data[start : start + ROW_BYTES] for start in range(0, len(data), ROW_BYTES)]
    values = {read_name(row[:NAME_BYTES]): int.from_bytes(row[NAME_BYTES:], "big") for row in rows}
    if len(values) != len(rows):
        raise ParametersError("name", "a parameter stands there twice")
    if encode_parameters(values) != data:  # a value that its kind does not have was refused there
        raise ParametersError("canonical", "these bytes are not the form of what they say")
    return values


def digest_parameters(values: Values) -> bytes:
    """Return the keccak256 of the byte form, by which contract and proposals name the values."""
    return keccak(encode_parameters(values))


def name_word(name: str) -> bytes:
    """Return a name's 32 bytes. Raises ParametersError."""
    if not 0 < len(name) <= MAX_NAME_CHARS or not NAME_CHARS.issuperset(name):
        raise ParametersError(
            "name",
            f"{name[:80]!r} is none; a name has 1 to {MAX_NAME_CHARS} of a to z, 0 to 9, . and -",
        )
    return name.encode().ljust(NAME_BYTES, b"\0")


def read_name(word: bytes) -> str:
    """Return the name that 32 bytes say. Raises ParametersError."""
    name = word.rstrip(b"\0").decode("latin-1")
    name_word(name)
    return name


def value_word(name: str, value: int) -> bytes:
    """Return a value's 32 bytes. Raises ParametersError where its kind has no such value."""
    parameter = BY_NAME.get(name)
    most = Kind.DIGEST.most if parameter is None else parameter.kind.most
    if not 0 <= value <= most:
        raise ParametersError("value", f"{name} is {value}; its kind ends at {most}")
    return value.to_bytes(VALUE_BYTES, "big")


# ── as people write it ──


def show_value(name: str, value: int) -> str:
    """Write a value for people: a digest as 0x…, all else in decimals."""
    parameter = BY_NAME.get(name)
    is_digest = parameter is not None and parameter.kind is Kind.DIGEST
    return f"0x{value:064x}" if is_digest else str(value)


def read_change(text: str) -> tuple[str, int]:
    """Read `NAME=VALUE`. Raises ParametersError that says what can be written there."""
    name, equals, written = text.partition("=")
    parameter = BY_NAME.get(name.strip())
    if not equals or parameter is None:
        raise ParametersError(
            "name",
            f"{text[:80]!r} changes nothing; write NAME=VALUE, with NAME one of"
            f" {', '.join(BY_NAME)}",
        )
    try:
        value = int(written.strip().replace("_", ""), 0)
    except ValueError:
        raise ParametersError(
            "value", f"{parameter.name} is {written[:80]!r}; write a number, in {parameter.unit}"
        ) from None
    value_word(parameter.name, value)
    return parameter.name, value

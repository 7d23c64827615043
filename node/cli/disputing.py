"""Says for `lorikeet registry` how disputes stand, and why something cannot be done about one now.

Sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proofs.chain.errors import ContractReverted
from proofs.hextext import to_hex

from .client import CliError
from .show import on_terminal, show_facts, show_json, when
from .stake import lori

if TYPE_CHECKING:
    from proofs.chain.client import ChainClient
    from proofs.chain.disputes import Dispute, Disputes
    from proofs.chain.registry import Registry


@dataclass(frozen=True)
class Disputed:
    """A dispute as it stands, and each side's bond in the token's smallest unit."""

    number: int
    dispute: Dispute
    bond: int


def disputes_of(registry: Registry, chain: ChainClient) -> Disputes:
    """Where registrations of this registry are disputed."""
    at = registry.disputes()
    if at is None:
        raise CliError(
            f"nobody can dispute what is registered at {to_hex(registry.address)}: it names no"
            " contract of disputes; set registry in lorikeet.toml to the network's"
        )
    return chain.open_disputes(at)


def find_disputes(registry: Registry, chain: ChainClient, digest: bytes) -> list[Disputed]:
    """What is not decided yet about what is registered under a digest, oldest first."""
    at = registry.disputes()
    if at is None:
        return []
    disputes = chain.open_disputes(at)
    found = disputes.about(registry.number_of(digest))
    return [Disputed(number, one, disputes.rules.bond) for number, one in found.items()]


def read_disputed(disputes: Disputes, number: int) -> Disputed:
    """One dispute."""
    return Disputed(number, disputes.read(number), disputes.rules.bond)


def check_open(disputes: Disputes, number: int) -> Dispute:
    """The dispute, which waits for an answer."""
    found = _check_there(disputes, number)
    if found.is_answered:
        raise CliError(
            f"dispute {number} is answered: a vote decides it until {when(found.until)};"
            f" afterwards lorikeet registry lapse {number}"
        )
    return found


def check_answered(disputes: Disputes, number: int) -> Dispute:
    """The dispute, which waits for a decision."""
    found = _check_there(disputes, number)
    if found.is_open:
        raise CliError(
            f"nobody has answered dispute {number}: after {when(found.until)} it ends by lorikeet"
            f" registry close {number}"
        )
    return found


def check_bond(disputes: Disputes, account: bytes) -> None:
    """Raise CliError where an account cannot pay a bond."""
    bond, purse = disputes.rules.bond, disputes.token.balance_of(account)
    if purse < bond:
        raise CliError(
            f"the bond is {lori(bond)}, and {to_hex(account)} has {lori(purse)}: send it"
            f" {lori(bond - purse)}, or name another key with --key"
        )


@contextmanager
def in_time(number: int, why: str, mend: str) -> Iterator[None]:
    """What the contract refuses inside the block as too early or too late, with the time."""
    try:
        yield
    except ContractReverted as error:
        if error.error != "NotNow":
            raise
        (until,) = error.values
        raise CliError(f"dispute {number}: {why} {when(int(str(until)))}; {mend}") from error


def show_sent(sent: bytes, now: Disputed, *, as_json: bool) -> None:
    """Say what a transaction made of a dispute."""
    if as_json:
        return show_json(describe_dispute(now) | {"transaction": to_hex(sent)})
    one = now.dispute
    facts: list[tuple[str, object]] = [
        ("dispute", now.number),
        ("by", to_hex(one.challenger)),
        ("bond", lori(now.bond)),
        ("state", one.state.name.lower()),
    ]
    if one.is_open:
        facts.append(("to be answered", f"until {when(one.until)}"))
    if one.is_answered:
        facts.append(("to be decided", f"by vote, until {when(one.until)}"))
    return show_facts([*facts, ("transaction", to_hex(sent))])


def describe_dispute(disputed: Disputed) -> dict[str, Any]:
    """A dispute as plain values; the bond is a string, since JSON's numbers end before it."""
    one = disputed.dispute
    return {
        "number": disputed.number,
        "challenger": to_hex(one.challenger),
        "respondent": to_hex(one.respondent) if any(one.respondent) else None,
        "state": one.state.name.lower(),
        "bond": str(disputed.bond),
        "until": one.until,
    }


def on_dispute(disputed: Disputed) -> str:
    """Say by whom weights are disputed, and until when what may be done."""
    one, number = disputed.dispute, disputed.number
    by = f"by {on_terminal(to_hex(one.challenger))} for {lori(disputed.bond)}"
    if one.is_answered:
        return (
            f"{by}, answered by {on_terminal(to_hex(one.respondent))}: a vote decides until"
            f" {when(one.until)}, afterwards: lorikeet registry lapse {number}"
        )
    return (
        f"{by}: until {when(one.until)} lorikeet registry answer {number},"
        f" afterwards: lorikeet registry close {number}"
    )


def _check_there(disputes: Disputes, number: int) -> Dispute:
    count = disputes.count()
    if number > count:
        raise CliError(
            f"there is no dispute {number}: there were {count}; lorikeet registry show names those"
            " about given weights"
        )
    found = disputes.read(number)
    if not found.is_open and not found.is_answered:
        raise CliError(f"dispute {number} is closed: there is nothing left to do about it")
    return found

"""Provides the commands that only look: status, ps, list, receipts, earnings.

Changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..api.adapters import AdapterInfo, HeldInfo
from ..api.money import EarningsInfo, ReceiptInfo, StuckInfo
from ..api.status import StatusInfo
from .base import ORIGINS
from .client import open_client
from .options import Home, Json
from .show import digits, on_terminal, show_facts, show_json, show_table, size, when
from .stake import lori


def status(home: Home, as_json: Json = False) -> None:
    """Show who this node is and how it does."""
    with open_client(home) as client:
        info = client.get("status", StatusInfo)
    if as_json:
        return show_json(info)
    facts: list[tuple[str, object]] = [
        ("peer", info.peer_id),
        ("address", info.address),
        ("role", info.role),
        ("network", info.network),
        ("base", info.base),
        *([("base from", ORIGINS[info.base_from])] if info.base_from else []),
        *([("waits for", info.waits_for)] if info.waits_for else []),
        ("listens on", " ".join(info.addresses)),
        *([("sells at", info.sells_at)] if info.sells_at else []),
        *([("page for browsers", info.page_at)] if info.page_at else []),
        ("peers", info.num_peers),
        *_reach_facts(info.reach),
        ("up for", f"{info.uptime_s:.0f} s"),
        *((name, value) for name, value in sorted(info.counters.items())),
        *([("paid in", info.coin.symbol)] if info.coin.symbol else []),
        *_settlement_facts(info.settlement or {}),
    ]
    return show_facts(facts)


def _settlement_facts(settlement: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Say where settlement stands: what concerns stake in words, the rest as it is."""
    facts: list[tuple[str, object]] = []
    for name, value in settlement.items():
        told = {"stake": _tell_own_stake, "others_stake": _tell_others_stake}.get(name)
        facts.append((f"settlement {name}", value if told is None else told(value)))
    return facts


def _tell_own_stake(stake: Mapping[str, Any]) -> str:
    if "counted" not in stake:
        return f"{stake['contract']} was not read yet"
    said = f"{lori(int(stake['counted']))} stand behind this node"
    if stake["announced"]:
        said += (
            f", enough for {stake['answers']} answers at once; it announces {stake['announced']},"
            f" which need {lori(int(stake['needed']))}"
        )
    found = stake["evidence"]
    return said + (f"; evidence that waits: {', '.join(found)}" if found else "")


def _tell_others_stake(others: Mapping[str, Any]) -> str:
    what = "are not asked" if others["required"] else "count less"
    if not others["short"]:
        return f"who has less than he needs: nobody that was asked about; such {what}"
    short = (
        f"{one['node']} ({lori(int(one['counted']))} of {lori(int(one['needed']))})"
        for one in others["short"]
    )
    return f"less than they need, so they {what}: {', '.join(short)}"


def _reach_facts(reach: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Say how others reach this node."""
    if not reach:
        return []
    how = {
        "reachable": "others can dial this node",
        "behind": "behind a router",
        "unknown": "nobody has tried yet",
    }
    facts: list[tuple[str, object]] = [("reached", how[reach["state"]])]
    if reach["relays"]:
        facts.append(("by relays", " ".join(reach["relays"])))
    if reach["mapped_port"]:
        facts.append(("router maps", reach["mapped_port"]))
    if reach["circuits"] is not None:
        facts.append(("relays for others", f"{reach['circuits']} connections"))
    return facts


def list_adapters(home: Home, as_json: Json = False) -> None:
    """List the adapters held here or heard of."""
    with open_client(home) as client:
        listed = client.get("adapters", list[AdapterInfo])
    if as_json:
        return show_json(listed)
    rows = [
        (
            one.name,
            one.state,
            size(one.size_bytes),
            one.providers,
            one.licence,
            on_terminal(one.cid),
            on_terminal(one.creator),
        )
        for one in listed
    ]
    return show_table(
        ("Name", "State", "Size", "Providers", "Licence", "CID", "Creator"),
        rows,
        empty="no adapters yet: lorikeet pull NAME",
    )


WHY = {
    "published": "published here",
    "pulled": "pulled",
    "asked": "asked for by strangers",
    "ahead": "fetched ahead: many want it",
    "mixed": "mixed for who asked, in memory",
}


def ps(home: Home, as_json: Json = False) -> None:
    """Show what the engine is doing, and why each adapter is here."""
    with open_client(home) as client:
        info = client.get("status", StatusInfo)
        held = [] if info.waits_for else client.get("held", list[HeldInfo])
    engine = info.engine
    if as_json:
        return show_json({**(engine or {}), "adapters": held})
    if info.waits_for:
        return show_facts([("waits for", info.waits_for)])
    if engine is None:
        show_facts([("engine", "none: this node asks others (role in lorikeet.toml)")])
    else:
        base: list[tuple[str, object]] = [("base", info.base)]
        base += [("base from", ORIGINS[info.base_from])] if info.base_from else []
        figures = {name: value for name, value in engine.items() if name not in NOT_SHOWN}
        told = ((name, brief_value(value)) for name, value in figures.items())
        show_facts([*base, *told, *memory_facts(engine.get("memory"))])
    return show_held(held)


NOT_SHOWN = ("steps", "memory")
MEMORY = {
    "base_bytes": "base",
    "adapter_bytes": "adapters",
    "kv_bytes": "keys and values",
    "work_bytes": "work",
    "process_bytes": "the rest of the process",
    "total_bytes": "in all",
}


def memory_facts(use: Any) -> list[tuple[str, object]]:
    """Say what the engine's memory is used for."""
    if not isinstance(use, Mapping):
        return []
    where = "device" if use["place"] == "device" else "memory"
    return [(f"{where}: {words}", size(use[name])) for name, words in MEMORY.items()]


def show_held(held: Sequence[HeldInfo]) -> None:
    """Show the adapters that are held, those wanted latest first."""
    order = sorted(held, key=lambda one: -(one.used_at or 0.0))
    rows = [
        (
            one.name,
            one.version,
            size(one.size_bytes),
            WHY[one.why],
            "-" if one.used_at is None else when(int(one.used_at)),
            on_terminal(one.cid),
        )
        for one in order
    ]
    return show_table(
        ("Adapter", "Version", "Size", "Why it is here", "Wanted last", "CID"),
        rows,
        empty="no adapters here yet: lorikeet pull NAME",
    )


def brief_value(value: object) -> object:
    """Return a list as its members, anything else as it is."""
    return " ".join(str(one) for one in value) or "-" if isinstance(value, list) else value


def receipts(
    home: Home,
    digest: Annotated[
        str | None, typer.Argument(help="Write this signed receipt's bytes to stdout.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the receipts in this node's ledger, or write one out."""
    with open_client(home) as client:
        if digest is not None:
            data = client.get_bytes(f"receipts/{digest}")
            if as_json:
                return show_json({"digest": digest, "receipt": data.hex()})
            sys.stdout.buffer.write(
                data if not sys.stdout.isatty() else data.hex().encode() + b"\n"
            )
            return None
        listed = client.get("receipts", list[ReceiptInfo])
        coin = client.coin()
    if as_json:
        return show_json(listed)
    rows: list[tuple[Any, ...]] = [
        (
            on_terminal(one.digest),
            one.state,
            one.role,
            "both" if one.is_cosigned else "node",
            on_terminal(one.adapter),
            one.tokens,
            digits(one.amount, coin),
            coin.symbol,
            on_terminal(one.counterparty),
            one.sequence,
            "-" if one.epoch is None else one.epoch,
        )
        for one in listed
    ]
    return show_table(
        (
            "Receipt",
            "State",
            "As",
            "Signed by",
            "Adapter",
            "Tokens",
            "Amount",
            "Token",
            "With",
            "Sequence",
            "Epoch",
        ),
        rows,
        empty="no receipts yet",
    )


def earnings(
    home: Home,
    why_zero: Annotated[
        bool,
        typer.Option(
            "--why-zero", help="Show what is not paid yet, and what each of it waits for."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what was earned, claimed and held on the chain."""
    if why_zero:
        return show_stuck(home, as_json)
    with open_client(home) as client:
        listed = client.get("earnings", list[EarningsInfo])
        coin = client.coin()
    if as_json:
        return show_json(listed)
    rows = [
        (
            one.address,
            *(digits(each, coin) for each in (one.credited, one.claimed, one.balance)),
            coin.symbol,
        )
        for one in listed
    ]
    return show_table(
        ("Address", "Credited", "Claimed", "Balance", "Token"), rows, empty="nothing earned yet"
    )


def show_stuck(home: Path, as_json: bool) -> None:
    """Show each amount that is not paid yet."""
    with open_client(home) as client:
        listed = client.get("stuck", list[StuckInfo])
        coin = client.coin()
    if as_json:
        return show_json(listed)
    rows = [
        (
            on_terminal(one.unit),
            digits(one.amount, coin),
            coin.symbol,
            one.waits_for,
            "-" if one.until is None else when(one.until),
            one.detail,
        )
        for one in listed
    ]
    empty = "nothing waits: all that was earned here is paid"
    return show_table(("What", "Amount", "Token", "Waits for", "Until", "Why"), rows, empty=empty)

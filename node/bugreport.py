"""What a node says of itself to strangers who are to help: no key, no password, no token, no text
of a prompt, no address, no peer's name. Pure; reads no file (node/doctor/reporting.py gathers).

Settings are shown where their kind holds no secret. Of a log, lines of our own form are, up to the
first error that they quote, and of a traceback the places in our sources. Whatever looks like a
secret or an address is crossed out, and then, wherever it stands, what is known to be secret on
this machine.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .api.doctor import Checked

SECRET_SETTINGS = frozenset({"network_key", "engine_key", "chain_rpc", "password_file"})
OF_PLACES = frozenset(
    {"announce", "allowed_hosts", "base_path", "bootstrap", "engine_adapters", "engine_url"}
    | {"hub_origin", "listen", "public_blocks", "sell", "web_address", "web_listen"}
)
"""Settings that may tell where a machine stands or whom it knows: only that they are set is told.
"""
MIN_SECRET_CHARS = 4
LOG_LINES = 200
OUR_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ([a-z]+(?: [a-z]+)?): (.*)")
OF_A_TRACEBACK = re.compile(
    r'  File "[^"]*/((?:engine|factory|node|p2p|proofs)/[\w/]+\.py)", line (\d+)'
)
NAMING = (
    (re.compile(r"\b(lorikeet|datanet)\d+-[\w-]+"), r"\1-[token]"),
    (re.compile(r"\bhf_\w+|\bsk-[\w-]+|\bgh[a-z]_\w+"), "[token]"),
    (re.compile(r"(?i)\b(bearer|basic)\s+\S+"), r"\1 [token]"),
    (re.compile(r"(?i)\b(https?|wss?)://[^\s'\"),;]+"), r"[\1 address]"),
    (re.compile(r"/(ip4|ip6|dns4|dns6|dnsaddr|dns)/[^\s,'\")]+"), r"[\1 address]"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "[address]"),
    (re.compile(r"(?<!\w)(?:[0-9a-fA-F]{0,4}:){2,8}[0-9a-fA-F]{0,4}(?!\w)"), "[address]"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"), "[address]"),
    (re.compile(r"\b(?:16Uiu2|12D3Koo|Qm)[1-9A-HJ-NP-Za-km-z]{20,}"), "[peer]"),
    (re.compile(r"\b(?:bafk|bafy)[a-z2-7]{20,}"), "[cid]"),
    (re.compile(r"(?i)\b(?:0x)?[0-9a-f]{32,}\b|\b0x[0-9a-f]{6,}\b"), "[digits]"),
    (re.compile(r"…[\w]+"), "[…]"),
    (
        # How our lines name a peer: the end of its id, which is no word and no number.
        re.compile(r"\b(?![a-z]+\b|[A-Z][a-z]+\b|[A-Z]+\b|\d+\b)[1-9A-HJ-NP-Za-km-z]{8}\b(?!\.\w)"),
        "[peer]",
    ),
    (
        # A blank belongs to it where a slash follows: /Volumes/Ada L/models.
        re.compile(r"(?:(?<![\w.\]/])\.{0,2}|~)/[\w.@+-]+(?:(?: [\w.@+ -]+)?/[\w.@+-]*)*"),
        "[path]",
    ),
)
"""What names a person, a machine, a peer or a secret, and what stands there instead."""
QUOTED = re.compile(r"(['\"“`]).*?(['\"”`]|$)")


@dataclass(frozen=True)
class Report:
    """What goes in: `settings` those that are not at their default, `log` the newest lines last."""

    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    found: Sequence[Checked]
    metrics: str
    log: Sequence[str]


def write_report(report: Report, secrets: Collection[str]) -> str:
    """Write a report, in which none of the `secrets` stands."""
    report = _without(report, secrets)  # before a rule takes away a part of one
    parts = [
        "# A node of Lorikeet",
        "",
        *(f"{name}: {value}" for name, value in report.versions.items()),
        "",
        "## Settings that differ from their default",
        *(f"{name} = {shown(name, value)}" for name, value in report.settings.items()),
        "",
        "## What lorikeet doctor finds",
        *(f"{one.state} {one.part}: {cross_out(one.what)}" for one in report.found),
        "",
        "## What it measures",
        *(nameless(line) for line in report.metrics.splitlines() if line and line[0] != "#"),
        "",
        f"## The end of its log ({LOG_LINES} lines at most)",
        *log_lines(report.log),
        "",
    ]
    return without("\n".join(parts), secrets)


def _without(report: Report, secrets: Collection[str]) -> Report:
    found = [replace(one, what=without(one.what, secrets)) for one in report.found]
    log = [without(line, secrets) for line in report.log]
    settings = {
        name: without(value, secrets) if isinstance(value, str) else value
        for name, value in report.settings.items()
    }
    return replace(report, found=found, log=log, settings=settings)


def shown(name: str, value: object) -> str:
    """A setting's value as anybody may read it."""
    if name in SECRET_SETTINGS or name in OF_PLACES:
        return "[set]"
    if isinstance(value, tuple):
        return f"[{len(value)} of them]"
    return cross_out(value) if isinstance(value, str) else str(value)


def log_lines(lines: Sequence[str]) -> list[str]:
    """Those lines of a log that are ours by their form, without what others wrote in them."""
    told = []
    for line in lines[-LOG_LINES:]:
        ours = OUR_LINE.fullmatch(line)
        place = OF_A_TRACEBACK.match(line)
        if ours is not None:
            said, colon, _ = ours[3].partition(": ")  # an error may quote what somebody asked
            told.append(f"{ours[1]} {ours[2]}: {cross_out(said)}{colon and ' …'}")
        elif place is not None:
            told.append(f"  {place[1]}, line {place[2]}")
    return told


def cross_out(text: str) -> str:
    """Cross out what looks like a token, an address, a key, a peer, a path or quoted words."""
    return QUOTED.sub("[words]", nameless(text))


def nameless(text: str) -> str:
    """The same, where quotes hold no strangers' words."""
    for pattern, instead in NAMING:
        text = pattern.sub(instead, text)
    return text


def without(text: str, secrets: Collection[str]) -> str:
    """Cross out every secret, the longest first; short ones that could be any word are not."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARS:
            text = text.replace(secret, "[secret]")
    return text

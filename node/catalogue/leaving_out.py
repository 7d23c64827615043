"""Makes of an adapter's folder one without what was withdrawn: its tokens are gone from the text
that is published, who gave nothing else is paid no more, and the others' parts grow.

    lorikeet.toml, attribution.tokens, contributors.msgpack   written anew
    everything else                                           as it lies

Decides what is left; signs and publishes nothing. The adapter's weights are what they were.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from proofs.attribution.listing import (
    MAX_LISTING_BYTES,
    Listed,
    read_listing,
    write_listing,
)
from proofs.attribution.tokens import Contribution, Tokens, write_tokens
from proofs.errors import TokensError
from proofs.origin import TOKENS_FILE

from ..errors import AdapterError
from .converting import Plain
from .origins import CONTRIBUTORS_FILE
from .packaging import DESCRIPTION_FILE
from .texts import map_tokens

MIN_HEX_CHARS = 6
UNMEASURED: Mapping[str, Any] = {
    "r_bps": 0,
    "lds_bps": 0,
    "answers": 0,
    "r_interval": [-10_000, 10_000],
    "lds_interval": [-10_000, 10_000],
}
"""What a manifest says of a division that nobody measured."""


@asynccontextmanager
async def folder_without(
    folder: Path, withdrawn: Sequence[str], home: Path
) -> AsyncIterator[Plain]:
    """Give a folder without what was withdrawn, as long as the block lasts; `withdrawn` are
    contributors' names or addresses, and begins of contributions' digests.

    Raises AdapterError where there is no such thing, or nobody would be left.
    """
    if not withdrawn:
        yield Plain(folder)
        return
    with tempfile.TemporaryDirectory(dir=home, prefix="without-") as scratch:
        made = Path(scratch) / folder.name
        try:
            note = await trio.to_thread.run_sync(write_without, folder, withdrawn, made)
        except (TokensError, OSError, tomllib.TOMLDecodeError, ValueError) as error:
            raise AdapterError(f"{folder}: {error}") from error
        yield Plain(made, note)


def write_without(folder: Path, withdrawn: Sequence[str], made: Path) -> str:
    """Write that folder, and say what was left out. Blocks."""
    about = tomllib.loads((folder / DESCRIPTION_FILE).read_text())
    people = about.get("contributors", [])
    has_tokens = (folder / TOKENS_FILE).is_file()
    tokens = map_tokens(folder / TOKENS_FILE) if has_tokens else None
    listed = _listing(folder, about, tokens)
    given = [who for who, _ in tokens.contributions] if tokens else []
    gone: set[int] = set()
    out: set[int] = set()
    for word in withdrawn:
        found, contributions = _find(word, people, given, listed)
        gone |= found
        out |= contributions
    gone |= {
        who for who in set(given) if all(i in out for i, one in enumerate(given) if one == who)
    }
    left = [who for who in range(len(people)) if who not in gone]
    if not left:
        raise AdapterError(
            f"nobody would be left to be paid for {about.get('name', folder.name)}; withdraw the"
            " adapter itself: lorikeet retract NAME@VERSION"
        )
    made.mkdir()
    for path in folder.iterdir():
        if path.name not in (DESCRIPTION_FILE, TOKENS_FILE, CONTRIBUTORS_FILE):
            (made / path.name).symlink_to(path.resolve())
    note = f"without {', '.join(withdrawn)}"
    if tokens is not None:
        sizes = _sizes(tokens)
        for who in left:
            own = [i for i, one in enumerate(given) if one == who]
            kept = sum(sizes[i] for i in own if i not in out)
            if own and kept < (before := sum(sizes[i] for i in own)):
                people[who]["weight"] = int(people[who].get("weight", 1)) * kept // before
        (made / TOKENS_FILE).write_bytes(_without(tokens, left, out))
        if listed:
            rows = [
                Listed(left.index(one.contributor), *_rest(one))
                for i, one in enumerate(listed)
                if i not in out
            ]
            (made / CONTRIBUTORS_FILE).write_bytes(write_listing(rows))
        note += f", {sum(sizes[i] for i in out):,} of {tokens.num_tokens:,} tokens"
    about["contributors"] = [people[who] for who in left]
    about.pop("version", None)  # so it is the next one
    if "attribution" in about:
        about["attribution"] |= UNMEASURED
    (made / DESCRIPTION_FILE).write_text(write_toml(about))
    return note


def _find(
    word: str, people: Sequence[Mapping[str, Any]], given: Sequence[int], listed: Sequence[Listed]
) -> tuple[set[int], set[int]]:
    """Return which contributors and which contributions somebody means."""
    who = {
        place
        for place, one in enumerate(people)
        if word == one.get("name") or word.lower() == str(one.get("address")).lower()
    }
    if who:
        return who, {i for i, one in enumerate(given) if one in who}
    begin = word.lower().removeprefix("0x")
    found = {i for i, one in enumerate(listed) if one.contribution.hex().startswith(begin)}
    if not found or len(begin) < MIN_HEX_CHARS:
        names = ", ".join(str(one.get("name") or one.get("address")) for one in people) or "nobody"
        raise AdapterError(
            f"{word!r} is no contributor and no contribution of it; it names {names}"
            f"{'' if listed else f', and has no {CONTRIBUTORS_FILE}'}"
        )
    if len({listed[i].contribution for i in found}) > 1:
        raise AdapterError(f"{word!r} begins several contributions; say more of it")
    return set(), found


def _listing(folder: Path, about: Mapping[str, Any], tokens: Tokens | None) -> tuple[Listed, ...]:
    path = folder / CONTRIBUTORS_FILE
    if tokens is None or not path.is_file():
        return ()
    with path.open("rb") as file:
        return read_listing(
            file.read(MAX_LISTING_BYTES + 1), tokens, len(about.get("datanets", ()))
        )


def _sizes(tokens: Tokens) -> list[int]:
    """Return how many tokens each contribution has."""
    starts = tokens.starts.tolist()
    return [
        starts[place + 1] - starts[place] - documents
        for place, (_, documents) in enumerate(tokens.contributions)
    ]


def _without(tokens: Tokens, left: Sequence[int], out: set[int]) -> bytes:
    kept = []
    first = 0
    for place, (who, documents) in enumerate(tokens.contributions):
        if place not in out:
            texts = [tokens.document(first + number) for number in range(documents)]
            kept.append(Contribution(left.index(who), texts))
        first += documents
    return write_tokens(tokens.tokenizer_hash, len(left), kept)


def _rest(one: Listed) -> tuple[int, bytes, str, list[int]]:
    return one.datanet, one.contribution, one.title, one.documents


def write_toml(about: Mapping[str, Any]) -> str:
    """Write tables of plain values, which is all that a lorikeet.toml has."""
    return "\n".join(_lines(about)) + "\n"


def _lines(about: Mapping[str, Any]) -> Iterator[str]:
    tables = {name: value for name, value in about.items() if _is_table(value)}
    for name, value in about.items():
        if name not in tables:
            yield f"{name} = {json.dumps(value, ensure_ascii=False)}"
    for name, value in tables.items():
        for row in value if isinstance(value, list) else [value]:
            yield f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
            yield from (
                f"{key} = {json.dumps(one, ensure_ascii=False)}" for key, one in row.items()
            )


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )

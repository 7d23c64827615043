"""csv and jsonl: a document for each row, out of one column.

Decides which column where nobody named it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter

import msgspec

from ..errors import Refusal

MAX_ROWS = 100_000
MAX_COLUMNS = 256
MAX_FIELD_CHARS = 1 << 20
TITLES = ("title", "question", "name", "heading")

Row = dict[str, str]


def read_csv(text: str, column: str) -> list[tuple[str, str]]:
    """Return (title, text) for each row. Raises Refusal."""
    csv.field_size_limit(MAX_FIELD_CHARS)
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    found: list[Row] = []
    try:
        for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            found.append({name: cell for name, cell in row.items() if name and _is_text(cell)})
            _count(found)
    except csv.Error as error:
        raise Refusal("rows", f"row {len(found) + 1}: {error}") from error
    return _choose(found, column)


def read_jsonl(text: str, column: str) -> list[tuple[str, str]]:
    """Return (title, text) for each line that holds an object. Raises Refusal."""
    found: list[Row] = []
    decoder = msgspec.json.Decoder(dict[str, object])
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise Refusal("rows", f"line {number}: {error}") from error
        found.append({name: cell for name, cell in row.items() if isinstance(cell, str)})
        _count(found)
    return _choose(found, column)


def _is_text(cell: object) -> bool:
    return isinstance(cell, str)


def _count(found: list[Row]) -> None:
    if len(found) > MAX_ROWS:
        raise Refusal("too-large", f"more than {MAX_ROWS:,} rows")
    if len(found[-1]) > MAX_COLUMNS:
        raise Refusal("rows", f"row {len(found)} has more than {MAX_COLUMNS} columns")


def _choose(found: list[Row], column: str) -> list[tuple[str, str]]:
    """The texts of a column; a title from one that is called so."""
    sizes: Counter[str] = Counter()
    for row in found:
        for name, cell in row.items():
            sizes[name] += len(cell)
    if not sizes:
        raise Refusal("rows", "no row has any text")
    chosen = column or max(sizes, key=lambda name: (sizes[name], name))
    if chosen not in sizes:
        names = ", ".join(sorted(sizes)[:12])
        raise Refusal("column", f"there is no column {chosen!r} with text; there are {names}")
    titles = next((name for name in sizes if name.lower() in TITLES and name != chosen), "")
    return [(row.get(titles, "")[:80], row[chosen]) for row in found if row.get(chosen, "").strip()]

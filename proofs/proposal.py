"""A proposal as people write it: a text with its grounds, and in it a block with what is to change.

    ```parameters
    prices.completion-floor = 40     # a comment
    ```

The text is the proposal's description on the chain, to the letter; a last line names the simulation
that it was published with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import ParametersError
from .parameters import read_change

FENCE = "```"
BEGIN = "```parameters"
SIMULATION = "simulation: "
MAX_TEXT_BYTES = 16 << 10  # a chain keeps it for ever, at its proposer's cost
DIGEST_CHARS = 64

Changes = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Draft:
    """A proposal that is not made yet."""

    title: str
    text: str
    changes: Changes


def read_draft(text: str) -> Draft:
    """Read a proposal's text. ParametersError says what is missing."""
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        raise ParametersError("size", f"the text has {size} bytes; at most {MAX_TEXT_BYTES}")
    changes: dict[str, int] = {}
    for line in _inside(text.splitlines()):
        name, value = read_change(line)
        if name in changes:
            raise ParametersError("name", f"{name} is changed twice")
        changes[name] = value
    titles = (line.strip("# \t") for line in text.splitlines() if line.strip("# \t"))
    title = next(titles, "")
    if not changes or title.startswith(FENCE):
        raise ParametersError(
            "text",
            f"a proposal is a title, its grounds, and a block that begins with {BEGIN}, has lines"
            f" of NAME = VALUE, and ends with {FENCE}",
        )
    return Draft(title, text, tuple(changes.items()))


def _inside(lines: Iterable[str]) -> Iterable[str]:
    """Yield what stands in the blocks, without comments and empty lines."""
    is_inside = False
    for line in lines:
        if line.strip() == BEGIN:
            is_inside = True
        elif line.strip() == FENCE:
            is_inside = False
        elif is_inside and (said := line.partition("#")[0].strip()):
            yield said


def name_simulation(text: str, digest: bytes) -> str:
    """Return the text with a last line that names the report of a simulation."""
    return f"{text.rstrip()}\n\n{SIMULATION}{digest.hex()}\n"


def find_simulation(description: str) -> bytes | None:
    """Return the digest that a description's last line names."""
    last = description.rstrip().rpartition("\n")[2]
    digest = last.removeprefix(SIMULATION)
    if digest == last or len(digest) != DIGEST_CHARS:
        return None
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return None

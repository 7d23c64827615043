"""Says what a datanet would say to files: `python -m factory.intake FILE… [--json]`.

Exit status: 0 all is taken, 1 a curator would look, 2 something is refused, 3 intake cannot run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from .errors import IntakeError
from .examining import examine
from .types import Examined, Finding, Known, Rules

MAX_LINES = 8
"""Findings of one code that are printed."""
MARKS = {"refuse": "refused", "hold": "held", "note": "note"}
CLEAR = "\r\x1b[K"
STATUS = {"note": 0, "hold": 1, "refuse": 2}


def main() -> int:
    """Look at the files and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m factory.intake", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--languages", default="", help="that are taken, for instance en,bn")
    parser.add_argument("--min-words", type=int, default=50, help="of a document (default: 50)")
    parser.add_argument("--column", default="", help="of csv and jsonl (default: the longest)")
    parser.add_argument("--mask", action="store_true", help="replace personal data")
    asked = parser.parse_args()
    rules = Rules(
        languages=tuple(code for code in asked.languages.split(",") if code),
        min_words=asked.min_words,
        column=asked.column,
        mask=asked.mask,
    )
    tell = None if asked.json or not sys.stderr.isatty() else _tell
    try:
        examined = examine(asked.files, rules, Known(), tell=tell)
    except IntakeError as error:
        print(f"{CLEAR if tell else ''}factory.intake: {error}", file=sys.stderr)
        return 3
    if tell:
        print(CLEAR, end="", file=sys.stderr, flush=True)
    print(json.dumps(as_json(examined), indent=1) if asked.json else as_text(examined))
    return STATUS[examined.outcome]


def as_json(examined: Examined) -> dict[str, object]:
    """Return what was found, without the texts."""
    return {
        "outcome": examined.outcome,
        "documents": [
            {
                "title": one.title,
                "words": one.words,
                "bytes": len(one.text),
                "sha256": one.sha256.hex(),
            }
            for one in examined.documents
        ],
        "findings": [
            {
                "code": one.code,
                "document": one.document,
                "outcome": one.outcome,
                "detail": one.detail,
                "mend": one.mend,
            }
            for one in examined.findings
        ],
        "numbers": dict(examined.numbers),
        "cleaner": examined.cleaner,
        "isolated": examined.isolated,
    }


def as_text(examined: Examined) -> str:
    """Return what was found, for a reader."""
    lines = []
    seen: Counter[str] = Counter()
    for one in examined.findings:
        seen[one.code] += 1
        if seen[one.code] <= MAX_LINES:
            lines.append(_line(examined, one))
    lines += [
        f"          … and {count - MAX_LINES} more: {code}"
        for code, count in seen.items()
        if count > MAX_LINES
    ]
    numbers = examined.numbers
    lines.append(
        f"{len(examined.kept)} of {len(examined.documents)} documents would be taken:"
        f" {numbers['words']:,} words, {numbers['bytes']:,} bytes;"
        f" a curator would look at {numbers['documents held']}"
    )
    if not examined.isolated:
        lines.append("(this system does not let the parsers run without a network)")
    return "\n".join(lines)


def _line(examined: Examined, finding: Finding) -> str:
    where = ""
    if finding.document is not None:
        title = examined.documents[finding.document].title
        where = f"document {finding.document + 1} ({title[:40]}): "
    said = f"{MARKS[finding.outcome]:8}{finding.code}: {where}{finding.detail}"
    return f"{said}\n          → {finding.mend}"


def _tell(name: str, done: int, total: int) -> None:
    print(f"{CLEAR}{done} of {total}: {name}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

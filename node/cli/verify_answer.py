"""Provides `lorikeet verify-answer`: has the daemon replay an answer that it bought. Knows options
and lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from proofs.receipt import digest_of

from ..api import VerifyInfo
from .audit import read_receipt
from .client import open_client
from .options import Home, Json
from .show import on_terminal, out, show_json
from .why import EXIT_DIFFERS, EXIT_UNKNOWN, body_of


def verify_answer(
    home: Home,
    receipt: Annotated[
        str, typer.Argument(help="A receipt's digest (`lorikeet receipts`), or a file with one.")
    ],
    as_json: Json = False,
) -> None:
    """Replay an answer that this node bought: did the adapter of its receipt make it?

    Exit 0: it did; 4: it did not; 5: that cannot be known here.
    """
    is_file = Path(receipt).is_file()
    digest = digest_of(body_of(read_receipt(home, receipt))).hex() if is_file else receipt
    with open_client(home) as client:
        found = client.get(f"verify/{digest}", VerifyInfo)
    if as_json:
        show_json(found)
    else:
        out.print("\n".join(lines_of(found)), markup=False)
    if code := {"agrees": 0, "differs": EXIT_DIFFERS, "unknown": EXIT_UNKNOWN}[found.verdict]:
        raise typer.Exit(code)


def lines_of(found: VerifyInfo) -> Iterator[str]:
    """Say what was compared, and what came out, for a person."""
    yield f"Answer of {found.tokens} tokens by {found.adapter or 'the bare base'}"
    yield f"  node     {on_terminal(found.node)}"
    if found.formats:
        limits = "calibrated by its creator" if found.is_calibrated else "not calibrated: wide ones"
        served, own = found.formats
        yield f"  replay   made in {served}, replayed in {own}; limits {limits}"
        yield f"  margins  {found.missed} of {found.tokens} tokens did not win"
        yield f"           {found.score:.4f} a token, {found.limit:.4f} allowed"
    if found.fits_base is not None:
        fits = "gives" if found.fits_base else "does not give"
        yield f"  base     the bare base {fits} its tokens"
    yield f"  {found.verdict}: {found.reason}"

"""Provides `lorikeet verify-answer` and `lorikeet attestations`: has the daemon replay an answer
that it bought or that somebody shows, and lists what was attested. Knows options and lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from proofs.receipt import digest_of

from ..api.verifying import AttestationInfo, VerifyInfo
from ..verifying.limits import agree_to_the_bit
from .audit import read_receipt
from .client import EXIT_USAGE, CliError, DaemonClient, open_client
from .options import Home, Json
from .show import on_terminal, out, show_json, show_table, when
from .why import EXIT_DIFFERS, EXIT_UNKNOWN, body_of

REPLAY_S = 300.0  # an adapter may have to be fetched first
ATTESTATION_BYTE = 0x99  # MessagePack's array of nine; a receipt is one of three


def verify_answer(
    home: Home,
    receipt: Annotated[
        str,
        typer.Argument(
            help="A receipt's digest (`lorikeet receipts`), a file with one, or a file with an"
            " attestation that shows its answer."
        ),
    ],
    open_into: Annotated[
        Path | None,
        typer.Option(
            "--open",
            metavar="FILE",
            help="Write the signed verdict with question and answer, for others to recompute.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay an answer that this node bought, or that somebody shows: did the adapter of its
    receipt make it?

    Exit 0: it did; 4: it did not; 5: that cannot be known here.
    """
    with open_client(home) as client:
        found = _verify(client, home, receipt, opened=open_into is not None)
    if open_into is not None:
        _write(open_into, found)
    if as_json:
        show_json(found)
    else:
        out.print("\n".join(lines_of(found)), markup=False)
    if code := {"agrees": 0, "differs": EXIT_DIFFERS, "unknown": EXIT_UNKNOWN}[found.verdict]:
        raise typer.Exit(code)


def attestations(
    home: Home,
    of: Annotated[
        str, typer.Option("--of", help="A node's address (0x…): only of its answers.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the signed verdicts on answers that were made here or told by others."""
    with open_client(home) as client:
        found = client.get("attestations", list[AttestationInfo])
    found = [one for one in found if not of or one.node == of.lower()]
    if as_json:
        return show_json(found)
    return show_table(
        ("judged", "verdict", "node", "adapter", "missed", "auditor", "weighs"),
        [
            (
                when(one.judged_at),
                one.outcome,
                on_terminal(one.node),
                on_terminal(one.adapter or "the bare base"),
                f"{one.missed} of {one.tokens}",
                on_terminal(one.auditor),
                WEIGHS[one.weighs],
            )
            for one in found
        ],
        empty="Nobody has attested anything that this node heard of.",
    )


def _verify(client: DaemonClient, home: Path, receipt: str, *, opened: bool) -> VerifyInfo:
    path = Path(receipt)
    if path.is_file() and path.read_bytes()[:1] == bytes([ATTESTATION_BYTE]):
        if opened:
            raise CliError("--open is for answers that this node bought itself", EXIT_USAGE)
        return client.post_bytes("verify", path.read_bytes(), VerifyInfo)
    is_file = path.is_file()
    digest = digest_of(body_of(read_receipt(home, receipt))).hex() if is_file else receipt
    query = "?opened=true" if opened else ""
    return client.get(f"verify/{digest}{query}", VerifyInfo, timeout_s=REPLAY_S)


def _write(path: Path, found: VerifyInfo) -> None:
    if not found.attestation:
        raise CliError(f"there is nothing to attest: {found.reason}", EXIT_UNKNOWN)
    try:
        path.write_bytes(bytes.fromhex(found.attestation))
    except OSError as error:
        raise CliError(f"the attestation was not written: {error}") from error


def lines_of(found: VerifyInfo) -> Iterator[str]:
    """Say what was compared, and what came out, for a person."""
    yield f"Answer of {found.tokens} tokens by {found.adapter or 'the bare base'}"
    yield f"  node     {on_terminal(found.node)}"
    if found.auditor:
        yield f"  auditor  {on_terminal(found.auditor)}, who says that it {found.attested}"
    if found.formats:
        limits = "calibrated by its creator" if found.is_calibrated else "not calibrated: wide ones"
        served, own = found.formats
        if agree_to_the_bit(served, own):
            limits = "of the same kernels, which agree to the bit"
        yield f"  replay   made in {served}, replayed in {own}; limits {limits}"
        yield f"  margins  {found.missed} of {found.tokens} tokens did not win"
        yield f"           {found.score:.4f} a token, {found.limit:.4f} allowed"
    if found.fits_base is not None:
        fits = "gives" if found.fits_base else "does not give"
        yield f"  base     the bare base {fits} its tokens"
    yield f"  {found.verdict}: {found.reason}"


WEIGHS = {
    "own": "made here",
    "named": "as if replayed here",
    "stranger": "its node is watched",
}

"""Provides `lorikeet why`: whose text an answer drew on, how its fee was split, and the steps from
there to money. Knows options and lines; the daemon and audit.py do the rest.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofs.errors import ReceiptError
from proofs.receipt import decode_body, decode_receipt, digest_of

from ..api.money import AttributedInfo, QualityInfo, SpanInfo, WhyInfo
from ..api.status import CoinInfo
from ..config import load_config
from .audit import open_audit, read_receipt
from .client import EXIT_ERROR, EXIT_NO_DAEMON, CliError, open_client
from .options import Home, Json
from .show import money, on_terminal, out, show_json, show_table
from .source import NoBlock, Source

if TYPE_CHECKING:
    from ..money.audit import Step

EXIT_DIFFERS = 4
EXIT_UNKNOWN = 5
MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
WRAP_COLUMNS = 96
ANYTHING = (-1.0, 1.0)
"""The interval of a figure that nobody measured."""


def why(
    home: Home,
    receipt: Annotated[
        str, typer.Argument(help="A receipt's digest (`lorikeet receipts`), or a file with one.")
    ],
    source: Source = "",
    as_json: Json = False,
) -> None:
    """Say whose text an answer drew on, and follow its receipt step by step: signatures, shares,
    inclusion, funds, payouts.

    Exit 0: what the receipt says is so; 4: it differs; 5: that cannot be known here; 1: a step is
    broken.
    """
    signed = read_signed(home, receipt)
    answer, coin = ask_daemon(home, receipt, signed)
    steps = list(follow(home, source, signed)) if signed else []
    if as_json:
        show_json({"answer": answer, "steps": [vars(step) for step in steps]})
    else:
        if answer is not None:
            out.print("\n".join(lines_of(answer, coin)), markup=False)
        show_table(
            ("step", "outcome", "detail"),
            [(step.name, step.outcome, step.detail) for step in steps],
            empty="",
        )
    if any(step.outcome == "broken" for step in steps):
        raise typer.Exit(EXIT_ERROR)
    if code := code_of(answer, signed):
        raise typer.Exit(code)


def read_signed(home: Path, receipt: str) -> bytes | None:
    """Return a signed receipt; None for one that this node kept as evidence and did not sign."""
    try:
        return read_receipt(home, receipt)
    except CliError as error:
        if error.exit_code == EXIT_NO_DAEMON:
            raise
        return None


def ask_daemon(home: Path, receipt: str, signed: bytes | None) -> tuple[WhyInfo | None, CoinInfo]:
    """Ask what the daemon knows of the answer, and in what it was paid; None where a file's receipt
    is not its own, or no daemon runs.
    """
    is_file = Path(receipt).is_file() and signed is not None
    digest = digest_of(body_of(signed)).hex() if is_file and signed else receipt
    try:
        with open_client(home) as client:
            return client.get(f"why/{digest}", WhyInfo), client.coin()
    except CliError:
        if is_file:
            return None, CoinInfo()
        raise


def follow(home: Path, source: str, signed: bytes) -> Iterator[Step]:
    """Follow a receipt to money; without a chain there is none.

    Where a block is still on its way to the one that is asked, the rest waits.
    """
    from ..money.audit import Step, explain

    if not load_config(home).chain_rpc:
        return
    try:
        with open_audit(home, source) as (audit, chain):
            yield from explain(audit, chain, signed)
    except NoBlock as error:
        yield Step("included", "waits", str(error))


def code_of(answer: WhyInfo | None, signed: bytes | None) -> int:
    """Return the exit status: does the receipt say what its answer drew on?"""
    if answer is None:
        assert signed is not None
        return EXIT_UNKNOWN if decode_body(body_of(signed)).drawn else 0
    return {"agrees": 0, "differs": EXIT_DIFFERS, "unknown": EXIT_UNKNOWN}[answer.verdict]


def body_of(signed: bytes) -> bytes:
    """Return the body of a signed receipt, which is one."""
    try:
        body = decode_receipt(signed).body
        decode_body(body)
    except ReceiptError as error:
        raise CliError(f"this is no receipt: {error}") from error
    return body


def lines_of(answer: WhyInfo, coin: CoinInfo, most_spans: int = len(MARKS)) -> Iterator[str]:
    """Say an answer, whose it is, and what that pays, for a person: of each adapter the spans with
    most bits.
    """
    names = " + ".join(one.adapter for one in answer.adapters) or "the bare base"
    yield f"Answer of {answer.tokens} tokens by {names}"
    for adapter in answer.adapters:
        by_bits = sorted(adapter.spans, key=lambda span: -span.bits)
        shown = sorted(by_bits[:most_spans], key=lambda span: span.start)
        if shown and answer.text is not None:
            said = mark(answer.text, [span.text for span in shown])
            yield textwrap.indent(textwrap.fill(said, WRAP_COLUMNS), "  ")
        yield from spans_of(shown)
        if rest := by_bits[most_spans:]:
            bits = sum(span.bits for span in rest)
            yield f"    and {len(rest)} with less, {bits:.0f} bits together"
        yield from sources_of(shown)
        yield from parts_of(adapter)
    yield f"  split  fee {money(answer.fee, coin)}"
    for part in answer.split:
        who = part.name or on_terminal(part.address)
        yield f"         {money(part.amount, coin)}  {part.role:<7}  {who}"
    yield f"  {answer.verdict}: {answer.reason}"


def mark(text: str, spans: Sequence[str]) -> str:
    """Return an answer with its spans in brackets, each with its number; they come in its order."""
    done = 0
    parts = []
    for number, span in zip(MARKS, spans, strict=False):
        at = text.find(span, done)
        inner = span.strip()
        if at < 0 or not inner:  # its tokens begin or end within a letter
            continue
        start = at + span.index(inner)
        parts += [text[done:start], f"[{inner}]{number}"]
        done = start + len(inner)
    return " ".join("".join([*parts, text[done:]]).split())


def spans_of(spans: Sequence[SpanInfo]) -> Iterator[str]:
    """Say where spans stand."""
    for number, span in zip(MARKS, spans, strict=False):
        where = f"contribution {span.contribution + 1}, document {span.document + 1}"
        if span.source is not None:
            where = f"“{span.source.title}”, document {span.source.document}"
        yield (
            f"  {number} {span.contributor}, {where}: {span.end - span.start} tokens,"
            f" {span.bits:.0f} bits more than anybody would write"
        )


def sources_of(spans: Sequence[SpanInfo]) -> Iterator[str]:
    """Say which contributions spans are of, so that one can be looked up."""
    given = {
        (one.source.contribution, one.source.datanet): f"{one.contributor}, “{one.source.title}”,"
        for one in spans
        if one.source is not None
    }
    for (contribution, datanet), title in given.items():
        yield f"  {title} is contribution {contribution[:12]} of datanet {datanet[:12]}"


def parts_of(adapter: AttributedInfo) -> Iterator[str]:
    """Say how much an answer drew on whom, how far pay follows it, and how good that is."""
    measured = [one for one in adapter.contributors if one.bits is not None]
    if measured:
        drawn = "  ".join(f"{one.name} {one.bits:.0f}" for one in measured)
        known = adapter.known_bits or 0.0
        yield f"  bits   {drawn}; {known:.0f} more anybody would have written"
    if adapter.quality is None:
        return
    rest = 8 - adapter.lambda_eighths
    yield f"  data   λ {adapter.lambda_eighths}/8 by this answer, {rest}/8 by standing weights"
    yield f"  how good is this?  {quality_of(adapter.quality)}"


def quality_of(quality: QualityInfo) -> str:
    """Say what a creator measured, and what not."""
    figures = [
        f"{name} {figure:.2f} [{low:.2f}, {high:.2f}]"
        for name, figure, (low, high) in (
            ("r", quality.r, quality.r_interval),
            ("LDS", quality.lds, quality.lds_interval),
        )
        if (low, high) != ANYTHING
    ]
    if not figures or not quality.answers:
        return "nobody has measured it"
    return f"{', '.join(figures)} against retraining on {quality.answers} answers, its creator says"

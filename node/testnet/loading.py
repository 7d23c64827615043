"""What a load on a test network is made of, and what came of it: when who is asked, by chance with
a seed, and a report. Pure; asks nobody.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from .drawing import LINE_HEIGHT, Picture

MAX_RATE = 1000.0


@dataclass(frozen=True)
class Planned:
    """One question: so long (s) after the beginning, of this model."""

    at_s: float
    model: str


@dataclass(frozen=True)
class Outcome:
    """What came of one question; `error` is the code or the word for why nothing did."""

    model: str
    first_ms: float | None
    whole_ms: float
    tokens: int
    error: str = ""


@dataclass(frozen=True)
class Row:
    """One model's outcomes, or all together. Times in ms; None where nothing was answered."""

    model: str
    asked: int
    failed: int
    tokens: int
    first_ms: tuple[float, float, float] | None
    whole_ms: tuple[float, float, float] | None


@dataclass(frozen=True)
class Report:
    """A load and what came of it; `rows` the most asked first, `total` all together.

    `late`: questions that were asked more than a second after they were planned to be, which says
    that whoever asks had not enough of the processor.
    """

    rate: float
    zipf: float
    lasted_s: float
    late: int
    errors: Mapping[str, int]
    total: Row
    rows: tuple[Row, ...]


def plan_load(
    models: Sequence[str], *, rate: float, zipf: float, seconds: float, seed: int
) -> Iterator[Planned]:
    """Yield questions in time's order: as many a second on average, at times that know nothing of
    one another; the model in place n is asked in proportion to 1/n to the power of `zipf`.
    """
    random = Random(seed)
    weights = [1 / place**zipf for place in range(1, len(models) + 1)]
    at_s = random.expovariate(rate)
    while at_s < seconds:
        yield Planned(at_s, random.choices(models, weights)[0])
        at_s += random.expovariate(rate)


def make_report(
    outcomes: Sequence[Outcome], *, rate: float, zipf: float, lasted_s: float, late: int
) -> Report:
    """Add outcomes up."""
    counted = Counter(one.model for one in outcomes)
    rows = (
        _row(model, [one for one in outcomes if one.model == model])
        for model, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    )
    errors = Counter(one.error for one in outcomes if one.error)
    total = _row("all", outcomes)
    return Report(
        rate,
        zipf,
        lasted_s,
        late,
        errors=dict(errors),
        total=total,
        rows=tuple(rows),
    )


def _row(model: str, outcomes: Sequence[Outcome]) -> Row:
    good = [one for one in outcomes if not one.error]
    return Row(
        model,
        len(outcomes),
        len(outcomes) - len(good),
        sum(one.tokens for one in good),
        first_ms=_quantiles([one.first_ms for one in good if one.first_ms is not None]),
        whole_ms=_quantiles([one.whole_ms for one in good]),
    )


def _quantiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """The median, the 95th and the 99th of a hundred: each a value that was measured."""
    if not values:
        return None
    ordered = sorted(values)
    at = [ordered[math.ceil(part * len(ordered)) - 1] for part in (0.5, 0.95, 0.99)]
    return (at[0], at[1], at[2])


HEADINGS = (
    *("model", "asked", "failed", "tokens"),
    *("first p50 ms", "p95", "p99", "whole p50 ms", "p95", "p99"),
)


def cells(row: Row) -> list[str]:
    """One row of a report, as text."""
    times = [*(row.first_ms or [None] * 3), *(row.whole_ms or [None] * 3)]
    shown = ["-" if one is None else f"{one:.0f}" for one in times]
    return [row.model, str(row.asked), str(row.failed), str(row.tokens), *shown]


def said(report: Report) -> list[str]:
    """What a report says in words, a line each."""
    total = report.total
    return [
        f"{total.asked} questions in {report.lasted_s:.0f} s ({report.rate:g} a second were"
        f" planned, zipf {report.zipf:g}), {total.failed} failed,"
        f" {total.tokens / report.lasted_s:.0f} tokens a second",
        f"{report.late} were asked more than a second late",
        *(f"{count} times {error}" for error, count in report.errors.items()),
    ]


def as_html(report: Report) -> str:
    """Write a page that stands by itself."""
    told = said(report)
    head = "".join(f"<th>{html.escape(one)}</th>" for one in HEADINGS)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in cells(row))}</tr>\n"
        for row in (report.total, *report.rows)
    )
    items = "".join(f"<li>{html.escape(one)}</li>" for one in told)
    style = "body{font:1rem sans-serif}td,th{padding:.2em .8em;text-align:right}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Load</title>'
        f"<style>{style}</style><h1>A load on a test network</h1><ul>{items}</ul>"
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></html>\n"
    )


WIDTH = 1080
MARGIN = 24
BARS_LEFT = 330
BARS_WIDTH = 400
MAX_NAME = 22  # letters that fit before the bars
MAX_ROWS = 40
ROW_HEIGHT = 26
INK = (34, 34, 34)
SHADES = ((198, 219, 239), (107, 174, 214), (8, 81, 156))
"""Of the 99th, the 95th and the median of a hundred."""


def as_png(report: Report) -> bytes:
    """Draw how soon answers came: for each model a bar to its first token and one to its end, dark
    as far as the median, lighter as far as 95 and 99 of a hundred. The first MAX_ROWS models.
    """
    rows = (report.total, *report.rows[:MAX_ROWS])
    words = ["A load on a test network", *said(report)]
    panels = ("first token, ms: p50 / p95 / p99", "whole answer, ms: p50 / p95 / p99")
    lines = len(words) + len(panels) * (2 + len(rows))
    picture = Picture(WIDTH, 2 * MARGIN + ROW_HEIGHT * lines)
    y = MARGIN
    for line in words:
        picture.write(MARGIN, y, line, INK)
        y += ROW_HEIGHT
    for title, times in zip(
        panels, ([one.first_ms for one in rows], [one.whole_ms for one in rows]), strict=True
    ):
        y += ROW_HEIGHT
        picture.write(MARGIN, y, title, INK)
        most = max((one[2] for one in times if one is not None), default=0.0) or 1.0
        for row, quantiles in zip(rows, times, strict=True):
            y += ROW_HEIGHT
            _draw_row(picture, y, row.model, quantiles, most=most)
        y += ROW_HEIGHT
    return picture.as_png()


def _draw_row(
    picture: Picture,
    y: int,
    model: str,
    quantiles: tuple[float, float, float] | None,
    *,
    most: float,
) -> None:
    picture.write(MARGIN, y, model[:MAX_NAME], INK)
    if quantiles is None:
        picture.write(BARS_LEFT, y, "-", INK)
        return
    for value, shade in zip(reversed(quantiles), SHADES, strict=True):
        width = max(round(BARS_WIDTH * value / most), 1)
        picture.fill(BARS_LEFT, y, width, LINE_HEIGHT, colour=shade)
    figures = " / ".join(f"{value:.0f}" for value in quantiles)
    picture.write(BARS_LEFT + BARS_WIDTH + MARGIN, y, figures, INK)

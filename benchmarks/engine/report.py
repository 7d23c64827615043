"""A comparison as a table in Markdown and as a plot in SVG, written by hand so that no plotting
library is needed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = {
    "ours": "#2a7f62",
    "vllm": "#4863a0",
    "openvino": "#b8860b",
    "llama.cpp": "#8b5a8c",
    "peft": "#a05050",
}
BAR = 16
GAP = 34
LEFT = 230
WIDTH = 900

Rates = Mapping[str, Sequence[float]]
"""Tokens per second of each side, one for every round."""


def cell(values: Sequence[float]) -> str:
    """Median, and in brackets the least and the most."""
    return (
        f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})" if values else "-"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def plot(groups: Mapping[str, Rates], limits: Mapping[str, float], unit: str = "tokens/s") -> str:
    """Horizontal bars, one group a case, each group on its own scale; whiskers from least to most,
    a dashed line at the machine's limit.
    """
    parts: list[str] = []
    digits = 0 if unit else 2
    y = 20
    for title, rates in groups.items():
        known = {name: values for name, values in rates.items() if values}
        scale = (WIDTH - LEFT - 60) / max(
            [*(max(values) for values in known.values()), limits.get(title, 0.0), 1.0]
        )
        head = f"{title}, {unit}" if unit else title
        parts.append(f'<text x="4" y="{y}" font-weight="bold">{escape(head)}</text>')
        top = y + 8
        for name, values in rates.items():
            y += BAR + 4
            parts.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end">{escape(name)}</text>')
            if name not in known:
                parts.append(f'<text x="{LEFT + 4}" y="{y}" fill="#888">no figure</text>')
                continue
            middle = statistics.median(values)
            colour = next((c for prefix, c in COLOURS.items() if name.startswith(prefix)), "#666")
            ends = LEFT + min(values) * scale, LEFT + max(values) * scale
            parts.append(
                f'<rect x="{LEFT}" y="{y - BAR + 4}" width="{middle * scale:.1f}"'
                f' height="{BAR - 2}" fill="{colour}"/>'
            )
            parts.append(
                f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y - 3}" y2="{y - 3}"'
                ' stroke="black"/>'
            )
            parts.append(f'<text x="{ends[1] + 5:.1f}" y="{y}">{middle:.{digits}f}</text>')
        if title in limits:
            x = LEFT + limits[title] * scale
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{y + 4}" stroke="#c00"'
                ' stroke-dasharray="4 3"/>'
            )
        y += GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}"'
        ' font-family="sans-serif" font-size="12">'
    )
    return (
        "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="white"/>', *parts, "</svg>"])
        + "\n"
    )

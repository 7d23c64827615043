"""What one run of `scripts/gpu` has found so far, and how it is shown: JSON, a Markdown table, a
plot. Pure but for `write`; measures nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine.gpu.model import Expectation
from benchmarks.engine.report import plot, table

REACHED = "reached"
MISSED = "missed"
OPEN = "-"


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: "ok", "failed", "too slow" or "left out"; `error` says more."""

    stage: str
    status: str
    seconds: float
    error: str = ""


@dataclass
class Board:
    """Everything of one run.

    `expectations` are written before the first row is measured, and the result says when.
    """

    name: str
    machine: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    expectations: list[Expectation] = field(default_factory=list)
    expected_at: str = ""
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def expect(self, expectations: Sequence[Expectation]) -> None:
        """Note what is expected, before it is measured."""
        assert not any(each.row in self.figures for each in expectations), (
            "a row was measured before it was expected"
        )
        self.expectations = list(expectations)
        self.expected_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def take(self, line: Mapping[str, Any]) -> str:
        """Take what a stage has told; gives a line for people, empty for what is only kept."""
        if "figure" in line:
            row = line["figure"]
            self.figures[row] = {
                "measured": line["measured"],
                "at": time.strftime("%H:%M:%S", time.gmtime()),
                **line["detail"],
            }
            self.troubles.pop(row, None)
            return self._sentence(row, line["measured"])
        if "trouble" in line:
            self.troubles[line["trouble"]] = line["error"]
            return f"{line['trouble']}: FAILED: {line['error']}"
        if line["fact"] == "machine":
            self.machine = line["value"]
        elif line["fact"] == "limits":
            self.limits = line["value"]
        else:
            self.facts[line["fact"]] = line["value"]
        return ""

    def verdict(self, expectation: Expectation) -> str:
        """Whether a row's goal was reached; OPEN where it has none or no figure."""
        figure = self.figures.get(expectation.row)
        reached = None if figure is None else expectation.reached(figure["measured"])
        return OPEN if reached is None else REACHED if reached else MISSED

    def status(self) -> int:
        """0: everything ran and reached its goal; 3: everything ran, some goals were missed; 1:
        something failed or was left out.
        """
        unmeasured = [each for each in self.expectations if each.row not in self.figures]
        if self.troubles or unmeasured or any(outcome.status != "ok" for outcome in self.outcomes):
            return 1
        return 3 if any(self.verdict(each) == MISSED for each in self.expectations) else 0

    def as_json(self) -> dict[str, Any]:
        """Everything, as it is kept."""
        rows = [
            {**asdict(each), "verdict": self.verdict(each), **self._figure(each.row)}
            for each in self.expectations
        ]
        expected = {each.row for each in self.expectations}
        return {
            "benchmark": f"gpu-{self.name}",
            "machine": self.machine,
            "scale": self.scale,
            "limits": self.limits,
            "expectations_written_at": self.expected_at,
            "rows": rows,
            "other_figures": {
                row: figure for row, figure in self.figures.items() if row not in expected
            },
            "troubles": self.troubles,
            "facts": self.facts,
            "stages": [asdict(outcome) for outcome in self.outcomes],
        }

    def as_markdown(self) -> str:
        """The table of the rows, the limits above it, what failed and the profiles below it."""
        head = ("measure", "limit", "goal", "measured", "of the limit", "")
        rows = [self._row(each) for each in self.expectations]
        parts = [f"# {self.machine.get('device', self.name)}", self._setting(), table(head, rows)]
        if self.troubles:
            parts.append(
                "## What failed\n\n"
                + "\n".join(f"- {row}: {error}" for row, error in self.troubles.items())
            )
        stages = [
            (
                each.stage,
                each.status,
                f"{each.seconds:.0f}",
                each.error.replace("\n", " ").replace("|", "/")[:300],
            )
            for each in self.outcomes
        ]
        parts.append("## Stages\n\n" + table(("stage", "", "seconds", ""), stages))
        parts += [
            _profile(name.removeprefix("profile-"), value)
            for name, value in self.facts.items()
            if name.startswith("profile-")
        ]
        return "\n\n".join(parts) + "\n"

    def as_svg(self) -> str:
        """Tokens a second while decoding, by batch, with the limit of base only as a dashed
        line.
        """
        groups: dict[str, dict[str, list[float]]] = {}
        lines: dict[str, float] = {}
        for each in self.expectations:
            kind, _, batch = each.row.partition("-")
            if kind == "base":
                lines[f"batch {batch}"] = each.limit
                groups.setdefault(f"batch {batch}", {})["ours, base only"] = self.figures.get(
                    each.row, {}
                ).get("rounds", [])
            elif (
                kind == "distinct" and each.row in self.figures and f"base-{batch}" in self.figures
            ):
                base = self.figures[f"base-{batch}"]["measured"]
                groups[f"batch {batch}"]["ours, an adapter each"] = [
                    base * share for share in self.figures[each.row]["rounds"]
                ]
        return plot(groups, lines)

    def write(self, folder: Path) -> list[Path]:
        """Write or write over all three files; a reader never meets half of one."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for ending, text in (
            ("json", json.dumps(self.as_json(), indent=1) + "\n"),
            ("md", self.as_markdown()),
            ("svg", self.as_svg()),
        ):
            path = folder / f"gpu-{self.name}.{ending}"
            partial = path.with_name(path.name + ".partial")
            partial.write_text(text)
            partial.replace(path)
            written.append(path)
        return written

    def _figure(self, row: str) -> dict[str, Any]:
        return self.figures.get(row, {"measured": None, "error": self.troubles.get(row)})

    def _setting(self) -> str:
        machine = self.machine
        limits = self.limits
        scale = self.scale
        versions = ", ".join(
            f"{what} {machine[what.lower()]}"
            for what in ("torch", "Triton", "CUDA", "Python")
            if machine.get(what.lower())
        )
        lines = [
            f"{versions}; {machine.get('free_bytes', 0) / 1e9:.1f} GB of device memory free, "
            f"{machine.get('host_bytes', 0) / 1e9:.0f} GB of host memory available."
        ]
        if scale:
            lines.append(
                f"Random weights of {scale['shape']} shape, {machine.get('dtype')}, context"
                f" {scale['context']}, adapters of rank {scale['rank']} on all linears; executor:"
                f" {self.facts.get('kernels', 'unknown')}."
            )
        if limits:
            lines.append(
                f"Measured in this run: copies {limits['copy_bytes_s'] / 1e12:.3f} TB/s (read and"
                " written), products "
                f"{limits['gemm_operations_s'] / 1e12:.1f} TFLOP/s, from the host"
                f" {limits['host_to_device_bytes_s'] / 1e9:.1f} GB/s. "
                f'The column "limit" follows from these; it was written at {self.expected_at},'
                " before any row was measured."
            )
        lines += [f"Left out: {each}." for each in scale.get("left_out", ())]
        lines += [
            f"Left out: {stage}: {why}." for stage, why in self.facts.get("left_out", {}).items()
        ]
        if "stood_in" in self.facts:
            lines.append(
                "Not installed there, and replaced by stand-ins that the measurement does without:"
                f" {', '.join(self.facts['stood_in'])}."
            )
        return "\n\n".join(lines)

    def _row(self, each: Expectation) -> tuple[str, ...]:
        figure = self.figures.get(each.row)
        goal = (
            "-"
            if each.goal is None
            else f"{'≥' if each.at_least else '≤'} {amount(each.goal, each.unit)}"
        )
        limit = f"{amount(each.limit, each.unit)} ({each.why})"
        if figure is None:
            return (
                each.title,
                limit,
                goal,
                "no figure",
                "-",
                "failed" if each.row in self.troubles else OPEN,
            )
        share = f"{figure['measured'] / each.limit:.1%}" if each.at_least and each.limit else "-"
        return (
            each.title,
            limit,
            goal,
            amount(figure["measured"], each.unit),
            share,
            self.verdict(each),
        )

    def _sentence(self, row: str, measured: float) -> str:
        each = next((each for each in self.expectations if each.row == row), None)
        if each is None:
            return f"{row}: {measured:.4g}"
        return (
            f"{each.title}: {amount(measured, each.unit)} (limit {amount(each.limit, each.unit)}):"
            f" {self.verdict(each)}"
        )


def amount(value: float, unit: str) -> str:
    """A number as people read it in its unit."""
    match unit:
        case "of base only":
            return f"{value:.1%} of base only"
        case "ms":
            return f"{value:.2f} ms"
        case "times":
            return f"{value:.3f} times"
        case _:
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


def _profile(name: str, seen: Mapping[str, Any]) -> str:
    lines = [
        (f"{line['us']:.1f}", f"{line['share']:.1%}", str(line["calls"]), f"`{line['name']}`")
        for line in seen["lines"]
    ]
    head = (
        f"## One decode step, {name}\n\n{seen['step_ms_without_profiler']:.2f} ms without the"
        f" profiler; the kernels take {seen['device_ms']:.2f} ms of the device under it."
    )
    return head + "\n\n" + table(("µs", "share", "calls", "kernel"), lines)

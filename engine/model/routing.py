"""Sends each row of a step through the experts that are chosen for it, and weighs what they give.

    chosen      row 0: experts 2, 0     row 1: experts 0, 3
    dealt       for 0: rows 0, 1        for 2: row 0         for 3: row 1
    gathered    row 0: of 2, of 0       row 1: of 0, of 3

Each row's bits depend on that row alone: experts are chosen by its own scores, of equal ones the
first, and what they give is added up in the order of its choice. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .experts import Experts


@dataclass(frozen=True)
class Routes:
    """Which experts the rows pass.

    weights: [rows, chosen] float32. shared: [rows, 1] float32, by what is weighed what the expert
    gives that every row passes. places: [rows, chosen] int64, where each lies among all that are
    dealt. ends: [experts] int64, where the rows of each expert end there.
    """

    weights: torch.Tensor
    shared: torch.Tensor
    places: torch.Tensor
    ends: torch.Tensor

    @classmethod
    def none(cls) -> Routes:
        """Return those of no rows."""
        return cls(torch.empty(0, 1), torch.empty(0, 1), torch.empty(0, 1).long(), torch.zeros(1))

    @property
    def origins(self) -> torch.Tensor:
        """Return the row that each of those dealt is of, [dealt rows] int64; ascending in each
        expert's.
        """
        num_rows, chosen = self.places.shape
        origins = torch.empty(num_rows * chosen, dtype=torch.int64)
        origins[self.places.flatten()] = torch.arange(num_rows).repeat_interleave(chosen)
        return origins

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Yield each expert that has rows, and where they begin and end among those dealt."""
        first = 0
        for expert, end in enumerate(self.ends.tolist()):
            if end > first:
                yield expert, first, end
            first = end


def choose(scores: torch.Tensor, experts: Experts) -> Routes:
    """Choose the experts with the highest of each row's `scores [rows, experts (and 1)]`."""
    count = experts.count
    logits = scores[:, :count].float()
    chosen = torch.sort(logits, dim=1, descending=True, stable=True).indices[:, : experts.chosen]
    weighed = logits.gather(1, chosen) if experts.normalised else logits
    weights = torch.softmax(weighed, 1)
    weights = weights if experts.normalised else weights.gather(1, chosen)
    flat = chosen.flatten()
    places = torch.empty_like(flat)
    places[torch.sort(flat, stable=True).indices] = torch.arange(len(flat))
    ends = torch.bincount(flat, minlength=count).cumsum(0)
    shared = torch.sigmoid(scores[:, count:].float())
    return Routes(weights, shared, places.view_as(chosen), ends)


def deal(rows: torch.Tensor, routes: Routes) -> torch.Tensor:
    """Copy `rows [rows or more, width]` once for each expert they pass, those of one together."""
    num_rows, chosen = routes.places.shape
    dealt = rows.new_empty(num_rows * chosen, rows.shape[1])
    dealt[routes.places.flatten()] = rows[:num_rows].repeat_interleave(chosen, 0)
    return dealt


def gather(made: torch.Tensor, routes: Routes, shared: torch.Tensor | None) -> torch.Tensor:
    """Add up what a row's experts `made [dealt rows, width]`, weighed: [rows, width] float32.

    shared: what the one gives that every row passes, [rows or more, width].
    """
    total = torch.zeros(len(routes.weights), made.shape[1])
    for number in range(routes.weights.shape[1]):
        part = made[routes.places[:, number]].float()
        total += part * routes.weights[:, number : number + 1]
    if routes.shared.shape[1] and shared is not None:
        total += shared[: len(total)].float() * routes.shared
    return total

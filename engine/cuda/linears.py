"""Reads linears onto a device, in the form that a number format has them, and multiplies by them.

Decides which kernel or library product does each for how many rows. Knows nothing of adapters, nor
which linear comes when (launches.py).

    stored   a linear's weights              one row                   more rows
    PLAIN    the dtype computed in           matvec.py, bound by       the library's product
                                             reading the weight
    INT8     int8, a scale for each output   narrow.py                 narrow.py
    Q4       as the base's file has them,    narrow.py                 narrow.py
             int8 where not in 4 bits

The embedding is in the dtype computed in, or in 4 bits with Q4 where the file has it so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from ..config import Stored
from ..model.quantised import Quantised, stack
from ..model.weights import Weights
from .device import Device
from .kernels import Kernels
from .narrow import Narrow, Whole

ROWS_AT_ONCE = 1 << 12
"""Rows that are made int8 together, so that little of a weight is there in float32."""

Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], None]
"""`multiply(x, out, bias)`: `out = x @ weight.T + bias`."""


@dataclass(frozen=True)
class Linear:
    """A linear on the device.

    multiply: see Multiply. fold: does the same for one row, and folds gate and up besides; None
    where no kernel does both. logits: multiplies without a bias into float32.
    """

    multiply: Multiply
    fold: Multiply | None
    logits: Callable[[torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True)
class Table:
    """The embedding on the device, [vocabulary, hidden]."""

    weight: torch.Tensor | Quantised
    kernels: Kernels

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Look up `tokens [rows]`: [rows, hidden] float32."""
        if isinstance(self.weight, Quantised):
            return self.weight.take(tokens).dequantise()
        return self.weight[tokens].float()

    def embed_into(self, tokens: torch.Tensor, out: torch.Tensor, spare: torch.Tensor) -> None:
        """Do the same into `out` by way of `spare`, which has the base's dtype: nothing is
        allocated.
        """
        if isinstance(self.weight, Quantised):
            self.kernels.look_up(tokens, self.weight, out)
        else:
            torch.index_select(self.weight, 0, tokens, out=spare)
            out.copy_(spare)


class Linears:
    """What reads the linears of one base."""

    def __init__(
        self, weights: Weights, kernels: Kernels, device: Device, dtype: torch.dtype, stored: Stored
    ) -> None:
        self._weights = weights
        self._kernels = kernels
        self._device = device
        self._dtype = dtype
        self._stored = stored

    def read(self, names: tuple[str, ...]) -> Linear:
        """Read weights, one under the other."""
        if self._stored is Stored.PLAIN:
            return self._plain(self.read_plainly(names))
        return self._narrow(self._read_narrow(names))

    def read_table(self, name: str) -> Table:
        """Read the embedding: in 4 bits where the file has it so and linears are kept so, else in
        the dtype that is computed in.
        """
        codes = self._read_codes(name)
        return Table(self.read_plainly((name,)) if codes is None else codes, self._kernels)

    def tied(self, name: str, table: Table) -> Linear:
        """Give the head that is tied to the embedding; what of it is there already is shared."""
        if isinstance(table.weight, Quantised):
            return self._narrow([table.weight])
        return self._plain(table.weight) if self._stored is Stored.PLAIN else self.read((name,))

    def read_plainly(
        self, names: tuple[str, ...], ending: str = "weight", dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Read tensors onto the device, one under the other."""
        parts = [
            self._weights.read(f"{name}.{ending}").to(self._device.where).to(dtype or self._dtype)
            for name in names
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    # --- in the dtype that is computed in ---

    def _plain(self, weight: torch.Tensor) -> Linear:
        transposed = weight.t()
        kernels = self._kernels

        def multiply(x: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None) -> None:
            if len(x) == 1:
                kernels.matvec(x, weight, bias, out)
            elif bias is None:
                torch.mm(x, transposed, out=out)
            else:
                torch.addmm(bias, x, transposed, out=out)

        def fold(x: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None) -> None:
            kernels.matvec_fold(x, weight, bias, out, self._weights.config.activation)

        def logits(x: torch.Tensor, out: torch.Tensor) -> None:
            if len(x) == 1:
                kernels.matvec(x, weight, None, out)
            else:
                self._device.product(x, weight, out)

        return Linear(multiply, fold, logits)

    # --- in 4 or 8 bits ---

    def _narrow(self, weights: list[Narrow]) -> Linear:
        """Multiply by weights that lie one under the other: a launch for each of them."""
        ends = [sum(each.shape[0] for each in weights[: n + 1]) for n in range(len(weights))]
        columns = [slice(end - each.shape[0], end) for end, each in zip(ends, weights, strict=True)]

        def multiply(x: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None) -> None:
            kernel = self._kernels.narrow_matvec if len(x) == 1 else self._kernels.narrow_product
            for weight, part in zip(weights, columns, strict=True):
                kernel(x, weight, None if bias is None else bias[part], out[:, part])

        return Linear(multiply, None, lambda x, out: multiply(x, out, None))

    def _read_narrow(self, names: tuple[str, ...]) -> list[Narrow]:
        """Read weights, those that follow one another in one form as one."""
        found = groupby(
            (self._read_one(name) for name in names),
            key=lambda each: each.group if isinstance(each, Quantised) else None,
        )
        return [_stacked(list(some)) for _, some in found]

    def _read_one(self, name: str) -> Narrow:
        codes = self._read_codes(name)
        if codes is not None:
            return codes
        weight = self._weights.read(f"{name}.weight")
        rows = torch.split(weight, ROWS_AT_ONCE)
        return _stacked([Whole.of(part.to(self._device.where).float()) for part in rows])

    def _read_codes(self, name: str) -> Quantised | None:
        if self._stored is not Stored.Q4:
            return None
        where = self._device.where
        read = self._weights.read_quantised(f"{name}.weight")
        if read is None:
            return None
        return Quantised(read.codes.to(where), read.scales.to(where), read.offsets.to(where))


def _stacked(parts: Sequence[Narrow]) -> Narrow:
    """Return weights of one form as one, one under the other."""
    if len(parts) == 1:
        return parts[0]
    whole = [part for part in parts if isinstance(part, Whole)]
    if whole:
        return Whole(
            torch.cat([part.numbers for part in whole]), torch.cat([part.scales for part in whole])
        )
    return stack([part for part in parts if isinstance(part, Quantised)])

"""Takes settings that strangers wrote one by one, each checked for its kind and range.

Knows no family and no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ModelError

MAX_SIZE = 1 << 20


class Fields:
    """Untrusted settings: each is checked for its kind and range when it is taken.

    `where` names them in errors.
    """

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self._raw = raw
        self.where = where

    def whole(
        self, name: str, default: int | None = None, highest: int = MAX_SIZE, lowest: int = 1
    ) -> int:
        """Return a number from `lowest` to `highest`. Raises ModelError."""
        value = self._given(name, default)
        if type(value) is not int or not lowest <= value <= highest:
            raise ModelError(
                f"{self.where}: {name} is {str(value)[:40]}; it must be a whole number from"
                f" {lowest} to {highest}"
            )
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """Return a positive, finite number. Raises ModelError."""
        value = self._given(name, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ModelError(
                f"{self.where}: {name} is {str(value)[:40]}; it must be a positive number"
            )
        return float(value)

    def maybe_real(self, name: str) -> float | None:
        """Return a positive, finite number; None where it is not said or null. Raises
        ModelError.
        """
        return None if self[name] is None else self.real(name)

    def reals(self, name: str, count: int) -> tuple[float, ...]:
        """Return a list of `count` positive, finite numbers. Raises ModelError."""
        value = self._given(name, None)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(type(each) in (int, float) and 0 < each < math.inf for each in value)
        ):
            raise ModelError(f"{self.where}: {name} must hold {count} positive numbers")
        return tuple(map(float, value))

    def flag(self, name: str, default: bool = False) -> bool:
        """Return whether something holds; `default` unless it is said. Raises ModelError."""
        value = self._given(name, default)
        if type(value) is not bool:
            raise ModelError(f"{self.where}: {name} is {str(value)[:40]}; it must be true or false")
        return value

    def inner(self, name: str) -> dict[str, Any]:
        """Return the settings inside the settings; empty unless they are said. Raises
        ModelError.
        """
        value = self._given(name, {})
        if not isinstance(value, dict):
            raise ModelError(f"{self.where}: {name} is {str(value)[:40]}; it must be an object")
        return dict(value)

    def __getitem__(self, name: str) -> Any:
        return self._raw.get(name)

    def _given(self, name: str, default: Any) -> Any:
        value = self._raw.get(name)
        if value is None and default is None:
            raise ModelError(f"{self.where} lacks {name}")
        return default if value is None else value

"""Which settings take another value while a daemon runs: each part that can says so. Reads no file.

What nobody says so of waits for a restart, and is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from .config import Config, settings

Apply = Callable[[Config], None]


@dataclass(frozen=True)
class Reloaded:
    """Which settings hold from now on, and which after a restart."""

    taken: tuple[str, ...]
    waiting: tuple[str, ...]

    def __str__(self) -> str:
        told = f"{', '.join(self.taken) or 'nothing'} changed"
        return told + (f"; after a restart: {', '.join(self.waiting)}" if self.waiting else "")


class Reloading:
    """What a daemon's parts take over from a configuration that was read again."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._applies: list[tuple[tuple[str, ...], Apply]] = []

    def on(self, names: tuple[str, ...], apply: Apply) -> None:
        """Have `apply` called when one of these settings has another value."""
        assert set(names) <= set(settings()), "such a setting is not known"
        self._applies.append((names, apply))

    def take(self, fresh: Config) -> Reloaded:
        """Have every part take over what it can."""
        changed = {
            name for name in settings() if getattr(fresh, name) != getattr(self._config, name)
        }
        known = {name for names, _ in self._applies for name in names}
        for names, apply in self._applies:
            if changed.intersection(names):
                apply(fresh)
        taken = changed & known
        values = {name: getattr(fresh, name) for name in taken}
        self._config = dataclasses.replace(self._config, **values)
        return Reloaded(tuple(sorted(taken)), tuple(sorted(changed - known)))

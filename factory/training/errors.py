"""What can go wrong with a training, and what to do about it.

FactoryError
└── TrainingError
    ├── BadRecipe     the recipe says what cannot be: file, line, field, mend
    ├── Diverged      a loss or a gradient became infinite or no number, twice
    ├── NoRoom        the disk is full, or memory will not do
    └── NotInstalled  peft, transformers or accelerate are not here
"""

from __future__ import annotations

from ..errors import FactoryError


class TrainingError(FactoryError):
    """Something that the person who trains can mend."""


class BadRecipe(TrainingError):
    """The recipe cannot be meant; the message names the line, the field and the mend."""


class Diverged(TrainingError):
    """The training left the numbers, also at half the rate."""


class NoRoom(TrainingError):
    """What must be written does not fit on the disk; what was kept before is whole."""


class NotInstalled(TrainingError):
    """A package that training needs is not installed."""

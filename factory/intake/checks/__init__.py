"""The checks, one file for each kind. Each takes all documents, the rules, what is known, and a
counter for its numbers, and gives findings.
"""

from . import (
    duplicates,
    language,
    noise,
    novelty,
    personal,
    phrases,
    quality,
    scripts,
    secrets,
    tokens,
)

ALL = (
    quality.check,
    language.check,
    tokens.check,
    scripts.check,
    secrets.check,
    personal.check,
    duplicates.check,
    novelty.check,
    phrases.check,
    noise.check,
)

__all__ = ["ALL", "noise", "personal"]

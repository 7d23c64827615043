"""Decides what Ollama's `options` mean here: which choose tokens, which tune a process, which are
refused.

Pure. Raises BadField.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.messages import Choosing, Grammar

from ..fields import BadField, shorten
from ..terms import as_choosing

# Ollama's own, as the documentation of its Modelfile has them.
DEFAULTS: Mapping[str, float] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
}
SAME = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
)
TERMS: Mapping[str, str] = {name: name for name in SAME} | {"repeat_penalty": "repetition_penalty"}
"""Ollama's names of the terms that are ours."""

# A process's memory and speed, which this node decides itself.
TUNING = frozenset(
    {
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "num_keep",
        "repeat_last_n",
        "use_mmap",
        "use_mlock",
        "low_vram",
        "numa",
        "vocab_only",
        "f16_kv",
        "penalize_newline",
        "mirostat_tau",
        "mirostat_eta",
    }
)
NEUTRAL: Mapping[str, object] = {"mirostat": 0, "typical_p": 1.0, "tfs_z": 1.0}
READ = frozenset({"num_predict", "seed", "stop"})


def known_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are set; one that would change the answer and cannot is refused."""
    options = {name: value for name, value in given.items() if value is not None}
    for name, value in options.items():
        is_known = name in TERMS or name in TUNING or name in READ
        if not is_known and (name not in NEUTRAL or value != NEUTRAL[name]):
            raise BadField(
                f"options.{name}",
                f"options.{name}={shorten(value)} is not served here. Remove it, it would be"
                " ignored.",
            )
    return options


def choosing_of(options: Mapping[str, Any], grammar: Grammar | None) -> Choosing:
    """Read how tokens are chosen; what is not said is as Ollama has it."""
    asked = {TERMS[name]: options[name] for name in TERMS if name in options}
    return as_choosing({**DEFAULTS, **asked}, grammar)


def max_tokens_of(options: Mapping[str, Any]) -> int | None:
    """Read `num_predict`; below 1 it means as many as fit."""
    wanted = options.get("num_predict", -1)
    if not isinstance(wanted, int):
        raise BadField("options.num_predict", "options.num_predict must be an integer")
    return wanted if wanted > 0 else None


def stop_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the stop texts."""
    given = options.get("stop", [])
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(one, str) and one for one in texts):
        raise BadField("options.stop", "options.stop must be a text or a list of texts, none empty")
    return tuple(texts)


def seed_of(options: Mapping[str, Any]) -> int | None:
    """Read the seed."""
    given = options.get("seed")
    if given is not None and not isinstance(given, int):
        raise BadField("options.seed", "options.seed must be an integer")
    return None if given is None else given % (1 << 63)

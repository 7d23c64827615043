"""Reads adapter_config.json, field by field: keeps what changes numbers, lets through what does
not, and refuses all else by name.

Knows no tensor and no base.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from ..errors import BadAdapter

MAX_RANK = 1024
MAX_PATTERNS = 4096
MAX_NUMBER = 1e30  # no adapter is near; beyond, an integer may fit no float
PATTERN_KEY = re.compile(r"\^?[A-Za-z0-9_.]{1,200}")

# Fields that change no number when an adapter is served, that the tensors themselves already say,
# or that are read below.
KNOWN = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
    "bias",
    "init_lora_weights",
    "loftq_config",
    "eva_config",
    "ensure_weight_tying",
    "qalora_group_size",
    "megatron_core",
    "fan_in_fan_out",
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
}
MUTATES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class AdapterConfig:
    """The part of adapter_config.json that changes numbers.

    bias: "none", "all" or "lora_only". saved: which of "embed_tokens" and "lm_head" are replaced as
    a whole. tokens: which rows of them are replaced, in the file's order.
    """

    rank: int
    alpha: float
    rslora: bool
    dora: bool
    lora_bias: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    bias: str
    saved: frozenset[str]
    tokens: dict[str, tuple[int, ...]]

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of B in `module` (its name from `model.layers` on)."""
        alpha = float(_by_pattern(self.alpha_pattern, module, self.alpha))
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def rank_of(self, module: str) -> int:
        """Return the rank that `module` declares."""
        return int(_by_pattern(self.rank_pattern, module, self.rank))


def parse_config(data: bytes) -> AdapterConfig:
    """Check adapter_config.json field by field. Raises BadAdapter."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAdapter(f"adapter_config.json is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BadAdapter("adapter_config.json is not a JSON object")
    _refuse_unserved(raw)
    rank = _number(raw, "r", 8)
    alpha = _number(raw, "lora_alpha", 8)
    if rank != int(rank) or not 1 <= rank <= MAX_RANK:
        raise BadAdapter(f"r is {rank}; it must be a whole number from 1 to {MAX_RANK}")
    ranks = {key: int(value) for key, value in _patterns(raw, "rank_pattern").items()}
    rslora, dora, lora_bias = (
        bool(raw.get(field, False)) for field in ("use_rslora", "use_dora", "lora_bias")
    )
    if dora and lora_bias:
        raise BadAdapter(
            "lora_bias together with use_dora is not served; PEFT does not train it either"
        )
    saved = _saved(raw)
    tokens = _trained_tokens(raw)
    return AdapterConfig(
        int(rank),
        alpha,
        rslora,
        dora,
        lora_bias=lora_bias,
        rank_pattern=ranks,
        alpha_pattern=_patterns(raw, "alpha_pattern"),
        bias=raw.get("bias", "none"),
        saved=saved,
        tokens=tokens,
    )


def _refuse_unserved(raw: dict[str, Any]) -> None:
    if raw.get("peft_type") != "LORA":
        raise BadAdapter(f"peft_type is {raw.get('peft_type')!r}; only LORA is served")
    if raw.get("bias", "none") not in ("none", "all", "lora_only"):
        raise BadAdapter(f"bias is {str(raw['bias'])[:40]!r}; it must be none, all or lora_only")
    if raw.get("fan_in_fan_out"):
        raise BadAdapter("fan_in_fan_out is not served for this base's linears")
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(MUTATES_BASE):
        raise BadAdapter(
            f"init_lora_weights={init!r} changed the base's weights; convert the adapter to plain"
            " LoRA first"
        )
    for field, value in raw.items():
        if field not in KNOWN and value not in (None, False, [], {}, "", 0):
            raise BadAdapter(
                f"the field {field} is {str(value)[:80]!r}, which is not served; train without it"
            )


def _number(raw: dict[str, Any], field: str, default: float) -> float:
    value = raw.get(field, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not -MAX_NUMBER <= value <= MAX_NUMBER
    ):
        raise BadAdapter(f"{field} is {str(value)[:40]!r}, not a finite number")
    return value


def _saved(raw: dict[str, Any]) -> frozenset[str]:
    names = raw.get("modules_to_save") or []
    if not isinstance(names, list) or not all(
        isinstance(name, str) and _end_of(name) for name in names
    ):
        raise BadAdapter(
            f"modules_to_save is {str(names)[:80]}; only embed_tokens and lm_head are served,"
            " others with LoRA (target_modules)"
        )
    return frozenset(_end_of(name) for name in names)


def _trained_tokens(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Read the trained tokens by PEFT's rule: a list is the embedding's; a mapping names the
    modules.
    """
    given = raw.get("trainable_token_indices") or {}
    by_module = {"embed_tokens": given} if isinstance(given, list) else given
    if not isinstance(by_module, dict):
        raise BadAdapter(
            "trainable_token_indices must be a list of token ids, or map modules to such lists"
        )
    tokens = {}
    for name, ids in by_module.items():
        if not _end_of(name):
            raise BadAdapter(
                f"trainable_token_indices names {name[:80]}; only embed_tokens and lm_head have"
                " tokens"
            )
        if (
            not isinstance(ids, list)
            or not all(type(each) is int for each in ids)
            or len(set(ids)) != len(ids)
        ):
            raise BadAdapter(
                f"trainable_token_indices of {name[:80]} must be a list of different token ids"
            )
        tokens[_end_of(name)] = tuple(ids)
    return tokens


def _end_of(name: str) -> str:
    """Return which of the two ends a module's name means; empty: neither."""
    last = name.rpartition(".")[2]
    return last if last in ("embed_tokens", "lm_head") else ""


def _patterns(raw: dict[str, Any], field: str) -> dict[str, float]:
    patterns = raw.get(field) or {}
    if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
        raise BadAdapter(f"{field} must map at most {MAX_PATTERNS} module names to numbers")
    for key in patterns:
        if not PATTERN_KEY.fullmatch(key):
            raise BadAdapter(
                f"{field} has the key {key[:80]!r}; only plain module names are served, no regular"
                " expressions"
            )
    return {key: _number(patterns, key, 0) for key in patterns}


def _by_pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """Look up by PEFT's rule: the first key that equals the name or its tail after a dot.

    `^` ties the key to the start. A dot matches itself only.
    """
    for key, value in patterns.items():
        if key.startswith("^"):
            if module == key[1:]:
                return value
        elif module == key or module.endswith("." + key):
            return value
    return default

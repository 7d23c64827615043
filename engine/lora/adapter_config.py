"""Reads adapter_config.json, field by field: keeps what changes numbers, lets through what does
not, and refuses all else by name.

Knows no tensor and no base.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ..errors import BadAdapter
from .patterns import PatternError, Patterns

MAX_RANK = 1024
MAX_PATTERNS = 4096
MAX_NUMBER = 1e30  # no adapter is near; beyond, an integer may fit no float
MAX_NAMES = 256
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
    "target_parameters",
    "task_type",
    "use_rslora",
    "bias",
    "init_lora_weights",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "ensure_weight_tying",
    "qalora_group_size",
    "megatron_core",
    "fan_in_fan_out",
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
}
UNSERVED = {
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
}
"""PEFT's other fields: each asks for something that is not done here, unless it says nothing."""
MUTATES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class AdapterConfig:
    """The part of adapter_config.json that changes numbers.

    bias: "none", "all" or "lora_only". saved: what names of modules that are replaced as a whole
    end with. tokens: which rows of "embed_tokens" and "lm_head" are replaced, in the file's order.
    ties: what is done to the embedding is done to a head that is tied to it. parameters: what names
    of tensors end with that are changed though they are no linear's (all experts' in one).
    """

    rank: int
    alpha: float
    rslora: bool
    dora: bool
    lora_bias: bool
    rank_pattern: Patterns
    alpha_pattern: Patterns
    bias: str
    saved: tuple[str, ...]
    tokens: dict[str, tuple[int, ...]]
    ties: bool
    parameters: tuple[str, ...] = ()

    def targets(self, parameter: str) -> bool:
        """Return whether the parameter of that name is changed, by PEFT's rule."""
        return any(f".{parameter}".endswith(f".{name}") for name in self.parameters)

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of B in `module` (its name from `model.layers` on)."""
        found = self.alpha_pattern.find(module)
        alpha = self.alpha if found is None else found
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def rank_of(self, module: str) -> int:
        """Return the rank that `module` declares."""
        found = self.rank_pattern.find(module)
        return self.rank if found is None else int(found)

    def saves(self, module: str) -> bool:
        """Return whether `module` is replaced as a whole, or a module that holds it, by PEFT's
        rule: one whose name ends with what modules_to_save says.
        """
        parts = module.split(".")
        holders = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        return any(holder.endswith(name) for holder in holders for name in self.saved)


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
    rslora, dora, lora_bias = (
        bool(raw.get(field, False)) for field in ("use_rslora", "use_dora", "lora_bias")
    )
    if dora and lora_bias:
        raise BadAdapter(
            "lora_bias together with use_dora is not served; PEFT does not train it either"
        )
    saved = _names(raw, "modules_to_save")
    tokens = _trained_tokens(raw)
    return AdapterConfig(
        int(rank),
        alpha,
        rslora,
        dora,
        lora_bias=lora_bias,
        rank_pattern=_patterns(raw, "rank_pattern"),
        alpha_pattern=_patterns(raw, "alpha_pattern"),
        bias=raw.get("bias", "none"),
        saved=saved,
        tokens=tokens,
        ties=bool(raw.get("ensure_weight_tying", False)),
        parameters=_names(raw, "target_parameters"),
    )


def _refuse_unserved(raw: dict[str, Any]) -> None:
    if raw.get("peft_type") != "LORA":
        raise BadAdapter(f"peft_type is {raw.get('peft_type')!r}; only LORA is served")
    if raw.get("bias", "none") not in ("none", "all", "lora_only"):
        raise BadAdapter(f"bias is {str(raw['bias'])[:40]!r}; it must be none, all or lora_only")
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(MUTATES_BASE):
        raise BadAdapter(
            f"init_lora_weights={init!r} changed the base's weights; convert the adapter to plain"
            " LoRA first, as `lorikeet push` does"
        )
    for field, value in raw.items():
        # A newer version's switch is true, a list or an object; a word or a number alone is an
        # option of one, and PEFT itself leaves out what it does not know.
        asks = value not in (None, False, [], {}, "", 0)
        is_option = field not in UNSERVED and isinstance(value, str | int | float)
        if field not in KNOWN and asks and (value is True or not is_option):
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


def _names(raw: dict[str, Any], field: str) -> tuple[str, ...]:
    names = raw.get(field) or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise BadAdapter(f"{field} is {str(names)[:80]}; it must be a list of names")
    if len(names) > MAX_NAMES:
        raise BadAdapter(f"{field} has {len(names)} names; at most {MAX_NAMES} are served")
    return tuple(dict.fromkeys(names))


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


def _patterns(raw: dict[str, Any], field: str) -> Patterns:
    patterns = raw.get(field) or {}
    if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
        raise BadAdapter(f"{field} must map at most {MAX_PATTERNS} module names to numbers")
    try:
        return Patterns({key: _number(patterns, key, 0) for key in patterns})
    except PatternError as error:
        raise BadAdapter(f"{field}: {error}") from error

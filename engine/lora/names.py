"""Says what a tensor of an adapter's file is by its name: which linear, norm or end of the base it
changes, and which half of the change it is.

Names are those that PEFT writes, with what training wraps around modules taken off (torch.compile,
FSDP, DDP, checkpointing, the adapter's own name). Knows no shapes and no configuration.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ..model.expert_names import name_in_mlp

WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"}
ADAPTER_NAME = re.compile(
    r"\.(lora_[AB]|lora_magnitude_vector)\.(?!(?:weight|bias)$)[^.]+(?=\.(?:weight|bias)$)"
    r"|\.(lora_embedding_[AB]|lora_magnitude_vector|trainable_tokens_delta)\.(?!weight$)[^.]+$"
    r"|\.(modules_to_save)\.[^.]+(?=\.(?:weight|bias)$)"
)
UNUSED = re.compile(r".*\.(?:original_module|token_adapter\.trainable_tokens_original)\.[^.]+")
"""The base's own, which raw dumps hold beside what takes its place."""

PART = re.compile(
    r"model\.layers\.(\d{1,4})\.([a-z_.]+?|mlp\.experts\.\d{1,4}\.[a-z_]+)"
    r"\.(lora_A\.weight|lora_B\.weight|lora_B\.bias"
    r"|lora_magnitude_vector(?:\.weight)?|(?:base_layer\.)?(?:bias|weight))"
)
END = re.compile(
    r"(?:model\.(embed_tokens)|(lm_head))\.(lora_embedding_A|lora_embedding_B|lora_A\.weight"
    r"|lora_B\.weight|lora_B\.bias|lora_magnitude_vector(?:\.weight)?"
    r"|token_adapter\.trainable_tokens_delta|(?:base_layer\.)?weight)"
)
NORM = re.compile(
    r"model\.(?:layers\.(\d{1,4})\.(input_layernorm|post_attention_layernorm"
    r"|pre_feedforward_layernorm|post_feedforward_layernorm|self_attn\.[qk]_norm)|(norm))\.weight"
)
HALVES = {
    "token_adapter.trainable_tokens_delta": "tokens",
    "base_layer.weight": "weight",
    "weight": "weight",
    "base_layer.bias": "bias",
    "lora_magnitude_vector.weight": "lora_magnitude_vector",
}
"""What some tensors are called here; all others by the end of their name, without ".weight"."""


@dataclass(frozen=True)
class OfPart:
    """A tensor of a linear of a layer. `half`: "lora_A", "lora_B.bias", "weight", …

    own: what the family calls the linear where we do not (Mixtral's experts, gpt-oss's router).
    """

    layer: int
    part: str
    half: str
    own: str | None = None

    @property
    def module(self) -> str:
        """Return the linear's whole name in the base."""
        return f"model.layers.{self.layer}.{self.part}"

    @property
    def told(self) -> str:
        """Return the name by which an adapter's configuration means the linear."""
        return self.module if self.own is None else f"model.layers.{self.layer}.{self.own}"


@dataclass(frozen=True)
class OfNorm:
    """The weight of a norm; `layer` None: the last one, before the head."""

    layer: int | None
    name: str

    @property
    def module(self) -> str:
        """Return the norm's whole name in the base."""
        return f"model.{'' if self.layer is None else f'layers.{self.layer}.'}{self.name}"


@dataclass(frozen=True)
class OfEnd:
    """A tensor of "embed_tokens" or "lm_head"."""

    module: str
    half: str


def find_unused(names: Collection[str]) -> set[str]:
    """Return which tensors of a file nothing reads: copies of the base's own, and what stands there
    under the name that PEFT reads as well.
    """
    read = {plain_name(name) for name in names if ".modules_to_save." not in name}
    return {
        name
        for name in names
        if UNUSED.fullmatch(name) or (".modules_to_save." in name and plain_name(name) in read)
    }


def find_place(name: str) -> OfPart | OfNorm | OfEnd | None:
    """Return what a tensor of this name changes; None: nothing that bases have."""
    plain = plain_name(name)
    if (end := END.fullmatch(plain)) is not None:
        return OfEnd(end[1] or end[2], _half(end[3]))
    if (norm := NORM.fullmatch(plain)) is not None:
        return OfNorm(None if norm[1] is None else int(norm[1]), norm[2] or norm[3])
    if (part := PART.fullmatch(name_in_mlp(plain))) is not None:
        own = plain.removeprefix(f"model.layers.{part[1]}.").removesuffix(f".{part[3]}")
        return OfPart(int(part[1]), part[2], _half(part[3]), None if own == part[2] else own)
    return None


def plain_name(name: str) -> str:
    """Return a tensor's name as PEFT writes it, from "model." or "lm_head." on."""
    bare = ".".join(each for each in name.split(".") if each not in WRAPPERS)
    bare = bare.removeprefix("base_model.model.").removeprefix("language_model.")
    # of a base that sees pictures, the part that reads and writes text
    bare = re.sub(r"^model\.language_model\.", "model.", bare)
    bare = ADAPTER_NAME.sub(lambda found: f".{found[1] or found[2] or found[3]}", bare)
    return bare.replace(".modules_to_save.", ".")


def _half(end: str) -> str:
    return HALVES.get(end, end.removesuffix(".weight"))

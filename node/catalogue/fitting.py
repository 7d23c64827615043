"""Decides whether an adapter on the disk is one for this node's base, before anything is loaded.

By its configuration, by the base that it names, and by the shapes in its weights' header. Reads no
tensor: the engine has the last word.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.base_files import read_gguf_fields
from engine.errors import BadAdapter, ModelError
from engine.lora.adapter_config import parse_config

from .packaging import CONFIG_FILE, MAX_FILE_BYTES, WEIGHTS_FILE

MAX_HEADER_BYTES = 16 << 20
QUANTISED = re.compile(r"[-_.](i?q[0-9].*|[bf]+[0-9]+|int8|gguf)", re.IGNORECASE)
"""What a file's name adds to its base's."""
IN_A_CACHE = re.compile(r"models--.+--(.+)")
LAYER = re.compile(r"\.layers\.([0-9]+)\.")
TAKES_HIDDEN = re.compile(r"\.(q_proj|k_proj|v_proj|gate_proj|up_proj)\.lora_A\.weight$")
GIVES_HIDDEN = re.compile(r"\.(o_proj|down_proj)\.lora_B\.weight$")


@dataclass(frozen=True)
class BaseShape:
    """A base, as far as an adapter shows that it is made for it: what it is called, most usual name
    first; how wide and how many its layers are, 0 where that is not known here.
    """

    names: tuple[str, ...]
    hidden: int = 0
    layers: int = 0

    @property
    def name(self) -> str:
        """Return what it is called."""
        return self.names[0]


@dataclass(frozen=True)
class Fit:
    """Whether an adapter fits: `reason` why not, empty where it does. `is_sure`: nothing helps;
    else it only says that it is made for another base, whose shape is this one's.
    """

    reason: str = ""
    is_sure: bool = True


class Unfit(Exception):
    """An adapter that is not for this base."""


def load_base_shape(name: str, weights: Path | None) -> BaseShape:
    """Read the shape of a base of that name: a GGUF file, a Hugging Face folder, or not here.

    Raises ModelError.
    """
    if weights is None:
        return BaseShape((name,))
    if not weights.is_dir():
        fields = read_gguf_fields(weights)
        kind = fields.get("general.architecture", "")
        sizes = [fields.get(f"{kind}.{size}", 0) for size in ("embedding_length", "block_count")]
        return BaseShape((name, weights.name.removesuffix(".gguf")), *sizes)
    try:
        config = json.loads((weights / "config.json").read_bytes())
        sizes = [int(config.get(size, 0)) for size in ("hidden_size", "num_hidden_layers")]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, OverflowError) as error:
        raise ModelError(f"{weights / 'config.json'}: {error}") from error
    in_cache = IN_A_CACHE.fullmatch(weights.parent.parent.name)
    return BaseShape((in_cache[1], name) if in_cache else (name,), *sizes)


def fit(folder: Path, base: BaseShape) -> Fit:
    """Say whether a PEFT folder's adapter fits a base. Reads two small parts of two files."""
    try:
        stated = _check_config(folder / CONFIG_FILE)
        _check_weights(folder, base)
    except (Unfit, BadAdapter) as error:
        return Fit(str(error))
    except OSError as error:
        return Fit(f"{error.filename}: {error.strerror}")
    if stated and not any(_is_same(stated, name) for name in base.names):
        return Fit(f"made for {stated}, this node's base is {base.name}", is_sure=False)
    return Fit()


def _check_config(path: Path) -> str:
    """Return the base that a configuration names. Raises BadAdapter, Unfit, OSError."""
    data = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES[CONFIG_FILE] else b""
    parse_config(data)
    raw = json.loads(data)
    return str(raw.get("base_model_name_or_path") or "")[:200]


def _check_weights(folder: Path, base: BaseShape) -> None:
    path = folder / WEIGHTS_FILE
    if not path.exists():
        others = sorted(folder.glob("adapter_model*"))
        if others:
            raise Unfit(f"{others[0].name} is not read; convert it to {WEIGHTS_FILE}")
        raise Unfit(f"{WEIGHTS_FILE} is missing")
    if path.stat().st_size > MAX_FILE_BYTES[WEIGHTS_FILE]:
        raise Unfit(f"{WEIGHTS_FILE} has more than {MAX_FILE_BYTES[WEIGHTS_FILE]} bytes")
    for name, shape in _shapes(path).items():
        layer = LAYER.search(name)
        if base.layers and layer is not None and int(layer[1]) >= base.layers:
            raise Unfit(f"it has a layer {layer[1]}, {base.name} has {base.layers}")
        sizes = shape[1:] if TAKES_HIDDEN.search(name) else shape[:1]
        is_wide = TAKES_HIDDEN.search(name) or GIVES_HIDDEN.search(name)
        if base.hidden and is_wide and sizes != [base.hidden]:
            raise Unfit(
                f"its layers are {sizes[0] if sizes else 0} wide, those of {base.name} are"
                f" {base.hidden}"
            )


def _shapes(path: Path) -> dict[str, list[int]]:
    """Read the header of a safetensors file. Raises Unfit, OSError."""
    with path.open("rb") as file:
        start = file.read(8)
        size_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= size_bytes <= MAX_HEADER_BYTES:
            raise Unfit(f"{WEIGHTS_FILE} is no safetensors file")
        data = file.read(size_bytes)
    try:
        header = msgspec.json.decode(data, type=dict[str, dict[str, Any]])
        header.pop("__metadata__", None)
        return {name: msgspec.convert(one["shape"], list[int]) for name, one in header.items()}
    except (msgspec.DecodeError, UnicodeError, KeyError, RecursionError) as error:
        raise Unfit(f"{WEIGHTS_FILE} is no safetensors file: {error}") from error


def _is_same(stated: str, base: str) -> bool:
    """Say whether two names of bases mean the same one, but for who keeps it and how."""
    name = stated.rstrip("/").rpartition("/")[2].lower()
    rest = base.lower().removeprefix(name)
    return base.lower().startswith(name) and (not rest or QUANTISED.fullmatch(rest) is not None)

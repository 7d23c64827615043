"""Decides which adapters the server is told of, under which name, and which files it may be told to
read. Asks nobody.

An adapter's name at the server is its content: the hex digits of its manifest's digest, or its CID
where the server fetches it itself. vLLM leaves out, without a word, what it does not know of an
adapter's file, so a file with anything but plain LoRA is refused here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import BadAdapter, UnknownAdapter
from engine.lora.adapter_config import AdapterConfig, parse_config
from engine.messages import MAX_ADAPTER_CONFIG_BYTES, AdapterHeld, HoldAdapter, Residency

HUB = "hub"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_HEADER_BYTES = 16 << 20
PLAIN = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class Tensor:
    """Where a matrix lies in its file: `at` is its first byte."""

    dtype: str
    shape: tuple[int, int]
    at: int


@dataclass
class Held:
    """An adapter that the server serves, and how many requests use it; a leaving one takes none."""

    name: str
    users: int = 0
    is_leaving: bool = False


class Adapters:
    """The adapters that the server was told of."""

    def __init__(self) -> None:
        self._held: dict[bytes, Held] = {}

    def note(self, adapter: bytes, name: str) -> None:
        """Remember that the server serves an adapter, perhaps again."""
        self._held.setdefault(adapter, Held(name)).is_leaving = False

    def check_known(self, adapter: bytes) -> None:
        """Raise UnknownAdapter unless new requests may use it."""
        held = self._held.get(adapter)
        if held is None or held.is_leaving:
            raise UnknownAdapter(f"adapter {adapter.hex()[:12]} is not held; hold it first")

    def use(self, adapter: bytes) -> str:
        """Count one more request that uses an adapter; return its name at the server."""
        self._held[adapter].users += 1
        return self._held[adapter].name

    def leave(self, adapter: bytes) -> str | None:
        """Count one request less; return the name to unload, if it only stayed for that."""
        held = self._held[adapter]
        held.users -= 1
        return self._forget(adapter) if held.is_leaving and not held.users else None

    def release(self, adapter: bytes) -> str | None:
        """Take no new requests for an adapter; return the name to unload, where nobody uses it."""
        held = self._held.get(adapter)
        if held is None:
            return None
        held.is_leaving = True
        return None if held.users else self._forget(adapter)

    def _forget(self, adapter: bytes) -> str:
        return self._held.pop(adapter).name

    def residency(self, adapter: bytes) -> Residency:
        """Return where an adapter is, as far as is known: vLLM does not say what is in a slot."""
        held = self._held.get(adapter)
        if held is None:
            return "absent"
        return "slot" if held.users else "memory"

    @property
    def held(self) -> list[bytes]:
        """List what new requests may use."""
        return [adapter for adapter, held in self._held.items() if not held.is_leaving]

    @property
    def used(self) -> list[bytes]:
        """List what requests use now."""
        return [adapter for adapter, held in self._held.items() if held.users]

    @property
    def names(self) -> set[str]:
        """Return the names that the server must know."""
        return {held.name for held in self._held.values()}


def name_of(adapter: bytes, there: str) -> str:
    """Return an adapter's name at the server."""
    if there != HUB:
        return adapter.hex()
    coded = base64.b32encode(b"\x01\x55\x12\x20" + adapter).decode().lower().rstrip("=")
    return f"b{coded}"


def folder_of(hold: HoldAdapter, here: Path, there: str) -> str:
    """Return the folder of an adapter's files as the server sees it: `here` lies at `there` for it
    (empty: at the same path).

    Raises BadAdapter.
    """
    config, weights = Path(hold.config_path), Path(hold.weights_path)
    if config.name != CONFIG_FILE or weights != config.with_name(WEIGHTS_FILE):
        raise BadAdapter(f"vLLM reads {CONFIG_FILE} and {WEIGHTS_FILE} in one folder alone")
    folder = config.parent.absolute()
    if not there:
        return str(folder)
    try:
        return str(Path(there) / folder.relative_to(here.absolute()))
    except ValueError:
        raise BadAdapter(
            f"{folder} lies outside {here}, and only that is at {there} for the server"
        ) from None


def check_files(hold: HoldAdapter) -> AdapterHeld:
    """Read an adapter's configuration and its file's header, and describe it.

    Raises BadAdapter for what vLLM does not serve or leaves out without a word.
    """
    weights = Path(hold.weights_path)
    try:
        told = parse_config(read_config(Path(hold.config_path)))
        tensors = read_header(weights)
        size_bytes = weights.stat().st_size
    except OSError as error:
        raise BadAdapter(f"the adapter's files cannot be read: {error}") from error
    check_served(told, tensors)
    rank = max((min(tensor.shape) for tensor in tensors.values()), default=told.rank)
    return AdapterHeld(hold.adapter, size_bytes, rank, 0.0)


def check_served(told: AdapterConfig, tensors: Collection[str]) -> None:
    """Raise BadAdapter for what vLLM does not serve of an adapter."""
    unserved = {
        "use_dora": told.dora,
        "lora_bias": told.lora_bias,
        "bias": told.bias != "none",
        "modules_to_save": told.saved,
        "target_parameters": told.parameters,
        "trainable_token_indices": told.tokens,
    }
    for field, is_asked in unserved.items():
        if is_asked:
            raise BadAdapter(f"{field} is not served by vLLM; ask a node with another engine")
    odd = next((name for name in tensors if not name.endswith(PLAIN)), None)
    if odd is not None:
        raise BadAdapter(
            f"the tensor {odd[:200]!r} is not served by vLLM, which takes lora_A and lora_B alone;"
            " ask a node with another engine"
        )


def read_config(path: Path) -> bytes:
    """Read adapter_config.json, up to what may be parsed. Raises OSError."""
    with path.open("rb") as file:
        return file.read(MAX_ADAPTER_CONFIG_BYTES)


def read_header(path: Path) -> dict[str, Tensor]:
    """Read where a safetensors file's matrices lie. Raises BadAdapter, OSError."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise BadAdapter(f"{path.name} has a header of {size} bytes; the limit is 16 MiB")
        try:
            header = json.loads(file.read(size))
            return {
                name: _tensor(entry, 8 + size)
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadAdapter(f"{path.name} holds what is no plain LoRA: {error!r}") from error


def _tensor(entry: dict[str, Any], data: int) -> Tensor:
    height, width = map(int, entry["shape"])
    if min(height, width) < 1:
        raise ValueError(f"shape {height} x {width}")
    return Tensor(str(entry["dtype"]), (height, width), data + int(entry["data_offsets"][0]))

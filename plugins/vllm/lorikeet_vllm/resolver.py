"""Resolves what vLLM calls an adapter, a name or a CID, to a folder on this disk.

Read against vLLM's interface as of vllm/lora/resolver.py at 8aad416e and vllm/entrypoints/openai/
models/serving.py at 00153c8b: `resolve_lora(base, name)` gives a LoRARequest or None, and None lets
the next resolver try; vLLM gives the request its number itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from .cache import Cache, NoRoom
from .manifest import CONFIG_FILE, NotTrue, digest_of
from .node import Node, NodeFailed, Unknown
from .settings import Settings

MAX_NAME_CHARS = 256

logger = logging.getLogger(__name__)


class LorikeetResolver(LoRAResolver):
    """Asks one Lorikeet node."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings.base
        self._node = Node(settings.url, settings.timeout_s)
        self._cache = Cache(settings.cache, settings.max_bytes)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return the adapter of that name, or None; why not is in the log."""
        if not 0 < len(lora_name) <= MAX_NAME_CHARS:
            return None
        return await asyncio.to_thread(self._resolve, base_model_name, lora_name)

    def _resolve(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        try:
            cid = self._cid_of(lora_name)
            folder = self._cache.have(cid, self._node)
        except Unknown:
            return None
        except (NodeFailed, NotTrue, NoRoom, OSError) as error:
            logger.warning("Lorikeet: %s: %s", lora_name, error)
            return None
        if not self._is_for(base_model_name, folder):
            return None
        logger.info("Lorikeet: %s is %s", lora_name, cid)
        number = 1 + int.from_bytes(digest_of(cid)[:4], "big") % (2**31 - 1)
        return LoRARequest(lora_name=lora_name, lora_int_id=number, lora_path=str(folder))

    def _cid_of(self, lora_name: str) -> str:
        try:
            digest_of(lora_name)
        except NotTrue:
            return self._node.find(lora_name)
        if not self._cache.is_here(lora_name):
            self._node.find(lora_name)  # the node fetches it
        return lora_name

    def _is_for(self, base_model_name: str, folder: Path) -> bool:
        """Say whether an adapter is for vLLM's base: as is set, else as the adapter says."""
        stated = self._base
        if not stated:
            stated = stated_base(folder / CONFIG_FILE)
        is_same = not stated or last_part(stated) == last_part(base_model_name)
        if not is_same:
            logger.warning(
                "Lorikeet: the adapter is for %s, this vLLM serves %s; if these are the same, set"
                " LORIKEET_VLLM_BASE=%s",
                stated[:200],
                base_model_name,
                base_model_name,
            )
        return is_same


def stated_base(config: Path) -> str:
    """Return the base that an adapter's configuration names, if it does."""
    try:
        return str(json.loads(config.read_bytes()).get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""  # vLLM says what is wrong with it


def last_part(base: str) -> str:
    """Return a base's name without whose it is or where it lies."""
    return base.rstrip("/").rpartition("/")[2].lower()

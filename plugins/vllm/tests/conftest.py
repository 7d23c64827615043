"""A stand-in for the two modules of vLLM that a resolver sees.

Mirrors, name by name, what was read on 2026-11-29 in vllm-project/vllm: vllm/lora/resolver.py
(`LoRAResolver`, `_LoRAResolverRegistry`), vllm/lora/request.py (`LoRARequest`) and how
vllm/entrypoints/openai/models/serving.py (`resolve_lora`, at 00153c8b) uses them. vLLM itself is
too large to be a dependency of a test.
"""

from __future__ import annotations

import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest


class LoRARequest(msgspec.Struct, omit_defaults=True, array_like=True):
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    tensorizer_config_dict: dict[str, Any] | None = None
    load_inplace: bool = False
    is_3d_lora_weight: bool = False

    def __post_init__(self) -> None:
        assert self.lora_int_id >= 1
        assert self.lora_path, "lora_path cannot be empty"


class LoRAResolver(ABC):
    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None: ...


@dataclass
class Registry:
    resolvers: dict[str, LoRAResolver] = field(default_factory=dict)

    def get_supported_resolvers(self) -> Any:
        return self.resolvers.keys()

    def register_resolver(self, resolver_name: str, resolver: LoRAResolver) -> None:
        self.resolvers[resolver_name] = resolver

    def get_resolver(self, resolver_name: str) -> LoRAResolver:
        return self.resolvers[resolver_name]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """vLLM as far as a resolver sees it; gives the registry."""
    registry = Registry()
    modules = {
        "vllm": types.ModuleType("vllm"),
        "vllm.lora": types.ModuleType("vllm.lora"),
        "vllm.lora.request": types.ModuleType("vllm.lora.request"),
        "vllm.lora.resolver": types.ModuleType("vllm.lora.resolver"),
    }
    vars(modules["vllm.lora.request"])["LoRARequest"] = LoRARequest
    vars(modules["vllm.lora.resolver"])["LoRAResolver"] = LoRAResolver
    vars(modules["vllm.lora.resolver"])["LoRAResolverRegistry"] = registry
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "lorikeet_vllm.resolver", raising=False)
    yield registry
    sys.modules.pop("lorikeet_vllm.resolver", None)

"""A plug-in of vLLM that takes adapters from a Lorikeet node: its entry point.

Lives in vLLM's environment and imports nothing of Lorikeet's.
"""

from __future__ import annotations

import os

NAME = "Lorikeet"


def register() -> None:
    """Have vLLM ask the node for adapters that it does not know. Asks nobody yet.

    vLLM calls it in each of its processes, and may do so more than once. Raises ValueError for a
    setting that makes no sense.
    """
    from vllm.lora.resolver import LoRAResolverRegistry

    from .resolver import LorikeetResolver
    from .settings import read_settings

    resolver = LorikeetResolver(read_settings(os.environ))
    if NAME not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver(NAME, resolver)

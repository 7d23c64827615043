"""Numbers what an adapter may change: the linears of all layers by site, those of layers with
experts, then norms. Executors find an adapter's weights by these numbers.

    entries   seven a layer; of each layer with experts its own (parts.expert_parts); each layer's
              norms; the norm behind all layers
    sites     four a layer; of each layer with experts its own; the norms, each by itself

Knows no adapter and no tensor.
"""

from __future__ import annotations

from .config import ModelConfig
from .parts import PARTS, SITES, expert_parts, norms_of, parts_of


def expert_layers(config: ModelConfig) -> list[int]:
    """List the layers that have experts, in their order."""
    return [] if config.experts is None else sorted(config.experts.layers)


def entry_number(config: ModelConfig, layer: int, kind: int) -> int:
    """Return the number of the first linear of a site."""
    parts = parts_of(config) if kind < SITES else expert_parts(config)
    first = next(index for index, part in enumerate(parts) if part.kind == kind)
    if kind < SITES:
        return layer * PARTS + first
    return config.layers * PARTS + expert_layers(config).index(layer) * len(parts) + first


def site_number(config: ModelConfig, layer: int, kind: int) -> int:
    """Return the number of a site."""
    if kind < SITES:
        return layer * SITES + kind
    place = expert_layers(config).index(layer)
    return config.layers * SITES + place * _expert_sites(config) + kind - SITES


def norm_entry(config: ModelConfig, layer: int | None, norm: int) -> int:
    """Return the number of a norm's entry; layer None: of the one behind the layers."""
    experts = len(expert_layers(config)) * len(expert_parts(config))
    return config.layers * PARTS + experts + _norm_number(config, layer, norm)


def norm_site(config: ModelConfig, layer: int | None, norm: int) -> int:
    """Return the number of a norm's site; layer None: of the one behind the layers."""
    experts = len(expert_layers(config)) * _expert_sites(config)
    return config.layers * SITES + experts + _norm_number(config, layer, norm)


def num_entries(config: ModelConfig) -> int:
    """Return how many linears and norms of a base an adapter may change."""
    return norm_entry(config, None, 1)


def _expert_sites(config: ModelConfig) -> int:
    return len({part.kind for part in expert_parts(config)})


def _norm_number(config: ModelConfig, layer: int | None, norm: int) -> int:
    return (config.layers if layer is None else layer) * len(norms_of(config)) + norm

"""Says what families call the tensors of layers with experts, and what we call them. Knows no
tensor.
"""

from __future__ import annotations

import re

MIXTRAL_NAMES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
MIXTRAL = re.compile(r"(.*\.mlp\.experts\.\d{1,4})\.(w[123])\.(.+)")


def name_in_mlp(name: str) -> str:
    """Return a tensor's name with a family's own words replaced by those of most others."""
    name = name.replace(".block_sparse_moe.", ".mlp.").replace(".mlp.router.", ".mlp.gate.")
    found = MIXTRAL.fullmatch(name)
    return name if found is None else f"{found[1]}.{MIXTRAL_NAMES[found[2]]}.{found[3]}"

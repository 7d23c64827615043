"""`python -m factory.merging FOLDER`: merge adapters as FOLDER/merge.json says, by peft.

A process of its own. Writes FOLDER/adapter whole or not at all; the same order gives the same bytes
on the same machine. Exit status 2: something must be mended first.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec

from proofs.manifest import WEIGHT_UNIT

from .errors import BadRun, FactoryError
from .merged import ADAPTER, ORDER_FILE, Order

WRONG = 2
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MERGED = "merged"


def main() -> int:
    """Read the order, and merge."""
    if len(sys.argv) != 2:
        print("python -m factory.merging FOLDER", file=sys.stderr)
        return WRONG
    folder = Path(sys.argv[1])
    try:
        order = msgspec.json.decode((folder / ORDER_FILE).read_bytes(), type=Order)
        merge(order, folder / ADAPTER)
    except (FactoryError, OSError, msgspec.DecodeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return WRONG
    return 0


def merge(order: Order, out: Path) -> None:
    """Write the merged adapter. Raises BadRun."""
    warnings.simplefilter("ignore")  # peft's own calls of transformers
    import torch
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    from .learning import load_base

    base = load_base(Path(order.base_path), torch.device("cpu"))
    names = [f"parent-{place}" for place in range(len(order.parents))]
    try:
        model = PeftModel.from_pretrained(base, order.parents[0].folder, adapter_name=names[0])
        for name, part in zip(names[1:], order.parents[1:], strict=True):
            model.load_adapter(part.folder, adapter_name=name)
        torch.manual_seed(order.seed)
        model.add_weighted_adapter(
            names,
            [part.weight / WEIGHT_UNIT for part in order.parents],
            MERGED,
            combination_type=order.method,
            density=order.density,
        )
    except (ValueError, RuntimeError, TypeError) as error:
        raise BadRun(f"peft cannot merge these by {order.method}: {error}") from error
    state = get_peft_model_state_dict(model, adapter_name=MERGED)
    tensors = {name: each.detach().bfloat16().contiguous() for name, each in state.items()}
    if not all(bool(each.isfinite().all()) for each in tensors.values()):
        raise BadRun("the merged adapter has numbers that are none; look at the parents")
    config: Any = model.peft_config[MERGED]
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    save_file(tensors, str(draft / WEIGHTS_FILE), metadata={"format": "pt"})
    targets = config.target_modules
    # The parents' scales are merged in, so the merged one's is alpha / r = 1, whatever theirs were.
    said = {
        "base_model_name_or_path": order.base,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": config.r,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": config.r,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    (draft / CONFIG_FILE).write_text(json.dumps(said, indent=2) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    draft.rename(out)


if __name__ == "__main__":
    sys.exit(main())

"""What every training of the factory shares: the frozen base, and the rate of a step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GgufConfig
from transformers.utils import logging as transformers_logging

from .errors import BadRun


def load_base(path: Path, device: torch.device, **options: Any) -> Any:
    """Load a base from a folder or a GGUF file: dequantised, frozen, in bfloat16.

    options: what else transformers is told; with a device_map the base lies where that says.
    Raises BadRun.
    """
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    options = {"dtype": torch.bfloat16, **options}
    if path.is_file():
        dequantised = {"quantization_config": GgufConfig(dequantize=True)}
        options = {"gguf_file": path.name, **dequantised, **options}
    elif not path.is_dir():
        raise BadRun(f"base: {path} is neither a folder nor a GGUF file")
    folder = path.parent if path.is_file() else path
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options)
    if "device_map" not in options:
        model = model.to(device)
    return model.requires_grad_(False).eval()


def rate_at(step: int, num_steps: int, warmup: float) -> float:
    """Return the part of the learning rate for a step: up in a line, down along a cosine."""
    first = max(1, round(warmup * num_steps))
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, num_steps - first)))

"""The base with the adapter that is trained, by transformers and peft.

The base is frozen, in bfloat16; the adapter is float32, and what is saved is rounded to bfloat16
first, so that what is measured here is what will be served. Knows no rows and no steps.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from ..errors import BadRun
from ..learning import load_base
from .errors import NotInstalled
from .loss import NOT_LEARNT, lost
from .recipe import AdapterPart

CONFIG_FILE = "adapter_config.json"


class Learner(nn.Module):
    """The base with its adapter, as what a batch loses."""

    def __init__(self, base: Path, adapter: AdapterPart, seed: int, device: torch.device) -> None:
        super().__init__()
        model = load_base(
            base, device, **(in_4_bits(base, device) if adapter.kind == "qlora" else {})
        )
        torch.manual_seed(seed)
        targets = adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets)
        config = LoraConfig(
            r=int(adapter.rank),
            lora_alpha=int(adapter.alpha),
            lora_dropout=0.0,
            use_rslora=adapter.kind == "rslora",
            use_dora=adapter.kind == "dora",
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        try:
            self.model: PeftModel = get_peft_model(model, config)
        except ValueError as error:
            raise BadRun(f"adapter.targets: the base has no such modules: {error}") from error

    def forward(self, ids: Tensor, targets: Tensor, positions: Tensor) -> Tensor:
        """Return the sum of what the targets lose, in nats; see Batch."""
        places = (targets != NOT_LEARNT).any(dim=0).nonzero()[:, 0]
        with (
            torch.autocast(ids.device.type, torch.bfloat16),
            disable_input_dtype_casting(self.model),
        ):
            made = self.model(
                input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=places
            )
        return lost(made.logits.flatten(0, 1), targets[:, places].flatten())

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def adapter(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name."""
        return {name: each for name, each in self.named_parameters() if each.requires_grad}

    @torch.no_grad()
    def put(self, values: dict[str, Tensor]) -> None:
        """Set the adapter."""
        for name, parameter in self.adapter().items():
            parameter.copy_(values[name])

    def copy(self) -> dict[str, Tensor]:
        """Return what the adapter is now, in this machine's memory."""
        return {name: each.detach().cpu().clone() for name, each in self.adapter().items()}

    def save(self, folder: Path, base_name: str) -> None:
        """Round the adapter to bfloat16 and write it as peft does, whole or not at all."""
        self.put({name: each.bfloat16().float() for name, each in self.copy().items()})
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        state = {
            name: tensor.bfloat16().contiguous()
            for name, tensor in self.model.state_dict().items()
            if "lora_" in name
        }
        self.model.peft_config["default"].base_model_name_or_path = base_name
        self.model.save_pretrained(str(draft), state_dict=state, save_embedding_layers=False)
        (draft / "README.md").unlink(missing_ok=True)  # peft's own, about a model on a hub
        config = json.loads((draft / CONFIG_FILE).read_text())
        if isinstance(config["target_modules"], list):  # peft has a set, in another order each time
            config["target_modules"].sort()
        (draft / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        for path in draft.iterdir():
            path.chmod(0o644)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)


def in_4_bits(base: Path, device: torch.device) -> dict[str, Any]:
    """Return what transformers is told of a base in 4 bits. Raises BadRun or NotInstalled."""
    if device.type != "cuda":
        raise BadRun("adapter.kind: qlora needs a CUDA device; take lora, rslora or dora")
    if base.is_file():
        raise BadRun(
            f"adapter.kind: qlora makes 4 bits of a folder's weights, and {base.name} is GGUF; take"
            " lora, rslora or dora, or serve the base from a folder"
        )
    if find_spec("bitsandbytes") is None:
        raise NotInstalled(
            "adapter.kind: qlora needs bitsandbytes; pip install bitsandbytes, or take lora,"
            " rslora or dora"
        )
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": device}}

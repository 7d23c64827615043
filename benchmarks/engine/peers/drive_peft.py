"""transformers + peft: one mixed batch, `adapter_names` choosing an adapter for each row."""

from __future__ import annotations

import os
import warnings
from typing import Any

from lines import Run, serve


def start(options: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Load the base in bfloat16 and 32 adapters."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import peft
    import torch
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options["threads"])
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        options["base"], dtype=torch.bfloat16
    )
    for index in range(options.get("held", 0)):
        folder = f"{options['adapters']}/a{index:03}"
        name = f"a{index:03}"
        if index == 0:
            model = peft.PeftModel.from_pretrained(model, folder, adapter_name=name)
        else:
            model.load_adapter(folder, adapter_name=name)
    model = model.to(torch.bfloat16).eval()

    def run(prompts: list[list[int]], adapters: list[Any], tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        names = (
            {"adapter_names": ["__base__" if a is None else f"a{a:03}" for a in adapters]}
            if options.get("held")
            else {}
        )
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                **names,
            )
        answers: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return answers

    return run, {
        "version": (
            f"transformers {transformers.__version__}, peft {peft.__version__}, torch"
            f" {torch.__version__}"
        )
    }


if __name__ == "__main__":
    serve(start)

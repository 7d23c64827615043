"""vLLM's CPU build, engine core in this process.

LoRA is off, or on with room for 32 adapters of rank 8.
"""

from __future__ import annotations

import os
from typing import Any

from lines import Run, serve


def start(options: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Build the engine; prefix caching is off, since no side may answer from another round."""
    os.environ.setdefault(
        "VLLM_CPU_OMP_THREADS_BIND",
        (
            ",".join(map(str, options["cores"]))
            if len(options["cores"]) > 1
            else str(options["cores"][0])
        ),
    )
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_SGL_KERNEL", "1")
    import vllm
    from vllm.lora.request import LoRARequest

    lora = (
        {
            "enable_lora": True,
            "max_loras": 32,
            "max_lora_rank": options.get("rank", 8),
            "max_cpu_loras": 64,
        }
        if options["lora"]
        else {}
    )
    engine = vllm.LLM(
        options["base"],
        dtype="bfloat16",
        skip_tokenizer_init=True,
        max_model_len=1024,
        max_num_seqs=32,
        enable_prefix_caching=False,
        disable_log_stats=True,
        **lora,
        **options.get("settings", {}),
    )

    def run(prompts: list[list[int]], adapters: list[Any], tokens: int) -> list[list[int]]:
        sampling = vllm.SamplingParams(
            temperature=0.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False
        )
        asked = [
            None if a is None else LoRARequest(f"a{a:03}", a + 1, f"{options['adapters']}/a{a:03}")
            for a in adapters
        ]
        loras = {"lora_request": asked} if options["lora"] else {}
        out = engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False, **loras
        )
        return [list(answer.outputs[0].token_ids) for answer in out]

    return run, {"version": vllm.__version__}


if __name__ == "__main__":
    serve(start)

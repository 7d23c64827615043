"""OpenVINO GenAI's continuous batching.

Converts the model once with optimum-intel; int8 weights by nncf, symmetric with a scale per row,
int4 with one for 128 inputs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lines import Run, serve


def convert(base: str, folder: Path, dtype: str) -> None:
    """Write OpenVINO's form of the model and a tokenizer of made-up words, which the pipeline asks
    for.
    """
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = OVModelForCausalLM.from_pretrained(base, export=True, compile=False, load_in_8bit=False)
    if dtype == "int8":
        import nncf

        model.model = nncf.compress_weights(model.model, mode=nncf.CompressWeightsMode.INT8_SYM)
    elif dtype == "int4":
        import nncf

        model.model = nncf.compress_weights(
            model.model,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=128,
            ratio=1.0,
            all_layers=True,
        )
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(model.config.vocab_size)}
    plain = Tokenizer(models.BPE(vocab=words, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel()  # type: ignore[assignment]
    both = convert_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="w2", bos_token="w1"),
        with_detokenizer=True,
    )
    for made, name in zip(
        both, ("openvino_tokenizer.xml", "openvino_detokenizer.xml"), strict=True
    ):
        openvino.save_model(made, folder / name)
    (folder / "complete").touch()


def start(options: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Open the pipeline on the CPU with bfloat16 arithmetic and 2 GiB for keys and values; prefix
    caching off.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import numpy as np
    import openvino
    import openvino_genai

    folder = Path(options["world"]) / f"openvino-{options['dtype']}"
    if not (
        folder / "complete"
    ).exists():  # in a process of its own: converting takes torch and memory
        subprocess.run(
            [sys.executable, __file__, "convert", options["base"], str(folder), options["dtype"]],
            check=True,
        )
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    scheduler.max_num_seqs = 32
    scheduler.max_num_batched_tokens = 512
    scheduler.enable_prefix_caching = False
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": options["threads"],
        "ENABLE_CPU_PINNING": True,
        **options.get("settings", {}),
    }
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(folder), scheduler, "CPU", settings, {}
    )

    def run(prompts: list[list[int]], adapters: list[Any], tokens: int) -> list[list[int]]:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos = True
        config.do_sample = False
        ids = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        out = pipeline.generate(ids, [config] * len(ids))
        return [list(answer.m_generation_ids[0]) for answer in out]

    return run, {"version": openvino_genai.get_version()}


if __name__ == "__main__":
    if sys.argv[1] == "convert":
        convert(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        serve(start)

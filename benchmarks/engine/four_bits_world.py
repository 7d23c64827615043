"""What every side of the comparison in 4 bits is given: one random Llama of 1B's shape, adapters,
in the formats each side reads.

    FOLDER/q4_0.gguf     all matrices in Q4_0
    FOLDER/q4_k_m.gguf   Q4_K, and Q6_K where llama.cpp's Q4_K_M has it: the table, and in half of
                         the layers v and down
    FOLDER/hf            Hugging Face folder in bfloat16 (vLLM; OpenVINO compresses it)
    FOLDER/aNNN          rank-16 all-linear adapters with non-zero B

Codes are random, not rounded from anything: what is measured depends on no weight. Everything is
written once; a folder that is complete is used as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.engine.world import make_adapter

HIDDEN = 2048
LAYERS = 16
HEADS = 32
KV_HEADS = 8
HEAD_DIM = 64
MLP = 8192
VOCAB = 128_256
CONTEXT = 2048
RANK = 16
NUM_ADAPTERS = 32
PARTS = {
    "self_attn.q_proj": ("attn_q", HIDDEN, HEADS * HEAD_DIM),
    "self_attn.k_proj": ("attn_k", HIDDEN, KV_HEADS * HEAD_DIM),
    "self_attn.v_proj": ("attn_v", HIDDEN, KV_HEADS * HEAD_DIM),
    "self_attn.o_proj": ("attn_output", HEADS * HEAD_DIM, HIDDEN),
    "mlp.gate_proj": ("ffn_gate", HIDDEN, MLP),
    "mlp.up_proj": ("ffn_up", HIDDEN, MLP),
    "mlp.down_proj": ("ffn_down", MLP, HIDDEN),
}
WIDTHS = {part: (wide, out) for part, (_, wide, out) in PARTS.items()}
WEIGHTS = LAYERS * sum(wide * out for _, wide, out in PARTS.values()) + VOCAB * HIDDEN
ADAPTER_WEIGHTS = LAYERS * RANK * sum(wide + out for _, wide, out in PARTS.values())
KV_NUMBERS_A_TOKEN = 2 * LAYERS * KV_HEADS * HEAD_DIM


def make_world(folder: Path) -> None:
    """Write whatever is missing."""
    done = folder / "complete"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("q4_0", "q4_k_m"):
        make_gguf(folder / f"{kind}.gguf", kind)
    make_base(folder / "hf")
    for index in range(NUM_ADAPTERS):
        make_adapter(folder / f"a{index:03}", index, rank=RANK, layers=LAYERS, parts=WIDTHS)
    done.touch()


def random_blocks(kind: str, rows: int, columns: int, spread: float, draw: Any) -> Any:
    """Random codes whose weights have about this standard deviation, as the file has them."""
    import gguf
    import numpy as np

    numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    raw = draw.integers(0, 256, (rows * columns // numbers, size), dtype=np.uint8)

    def put(at: int, value: float) -> None:
        raw[:, at : at + 2] = np.full((len(raw), 1), value, np.float16).view(np.uint8)

    step = spread / 4.6  # codes from 0 to 15 have that standard deviation
    if kind == "Q4_0":
        put(0, step)
    elif kind == "Q4_K":
        put(0, step / 40)
        put(2, 7.5 * step / 40)
        raw[:, 4:12] = 40 | 2 << 6  # of all groups alike: the low bits of the first four, and
        raw[:, 12:16] = 8 | 8 << 4  # of the last four, 8 | 2 << 4 = 40
    else:
        raw[:, 192:208] = draw.integers(20, 41, (len(raw), 16))
        put(208, spread / 18.5 / 30)
    return raw.reshape(rows, -1)


def make_gguf(path: Path, kind: str) -> None:
    """One of the two files, without a vocabulary."""
    import gguf
    import numpy as np

    draw = np.random.default_rng(5)
    mixed = kind == "q4_k_m"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("no_vocab")

    def add(name: str, rows: int, columns: int, form: str, spread: float) -> None:
        blocks = random_blocks(form, rows, columns, spread, draw)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType[form])

    add("token_embd", VOCAB, HIDDEN, "Q6_K" if mixed else "Q4_0", 0.05)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
        # llama.cpp's use_more_bits
        more = layer < LAYERS // 8 or layer >= 7 * LAYERS // 8 or (layer - LAYERS // 8) % 3 == 2
        for name, wide, out in PARTS.values():
            large = more and name in ("attn_v", "ffn_down")
            form = ("Q6_K" if large else "Q4_K") if mixed else "Q4_0"
            add(f"blk.{layer}.{name}", out, wide, form, wide**-0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_base(folder: Path) -> None:
    """The same shape in bfloat16, with other weights."""
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(5)

    def random(rows: int, columns: int, spread: float) -> torch.Tensor:
        return torch.empty(rows, columns, dtype=torch.bfloat16).normal_(0, spread, generator=draw)

    tensors = {
        "model.embed_tokens.weight": random(VOCAB, HIDDEN, 0.05),
        "model.norm.weight": torch.ones(HIDDEN).bfloat16(),
    }
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        for part, (_, wide, out) in PARTS.items():
            tensors[f"{stem}.{part}.weight"] = random(out, wide, wide**-0.5)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{stem}.{norm}.weight"] = torch.ones(HIDDEN).bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
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
        "rope_theta": 500_000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2}')

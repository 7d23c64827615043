"""A base that loads in no time: a random Llama of two layers with a byte-level tokenizer, and
random adapters for it. Real files, real formats.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HIDDEN = 32
LAYERS = 2
MAX_RANK = 1024  # what a configuration may say
HEADS = 2
MLP = 64
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor"
    " %}<|im_start|>assistant\n"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_base(folder: Path, seed: int = 0) -> Path:
    """A Hugging Face folder."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(
        models.BPE(
            vocab={
                token: at
                for at, token in enumerate(
                    [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
                )
            },
            merges=[],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE, "eos_token": "<|im_end|>"})
    )
    vocab = tokenizer.get_vocab_size()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": vocab,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (vocab, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape for name, shape in _linears().items()
        }
    tensors = {
        name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()
    }
    norms = [
        "model.norm.weight",
        *(
            f"model.layers.{at}.{name}.weight"
            for at in range(LAYERS)
            for name in ("input_layernorm", "post_attention_layernorm")
        ),
    ]
    tensors |= {name: np.ones(HIDDEN, np.float32) for name in norms}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_adapter(
    folder: Path, name: str, seed: int, *, rank: int = 4, extra: str = "", padding_rank: int = 0
) -> Path:
    """A PEFT folder with a lorikeet.toml; `extra` adds a tensor under that name, `padding_rank`
    makes it bigger; above what a configuration may say, its weights alone.
    """
    folder.mkdir(parents=True)
    rank = padding_rank or rank
    config = {
        "peft_type": "LORA",
        "r": min(rank, MAX_RANK),
        "lora_alpha": 8 * min(rank, MAX_RANK),
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for target in ("q_proj", "v_proj"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            tensors[f"{prefix}.lora_A.weight"] = random.normal(0, 0.5, (rank, HIDDEN)).astype(
                np.float32
            )
            tensors[f"{prefix}.lora_B.weight"] = random.normal(0, 0.5, (HIDDEN, rank)).astype(
                np.float32
            )
    if extra:
        tensors[extra] = np.ones((2, 2), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    contributor = (
        f'[[contributors]]\naddress = "0x{seed + 1:040x}"\nname = "data {name}"\nsource = "made'
        ' up"\nlicence = "CC0-1.0"\nweight = 3\n'
    )
    (folder / "lorikeet.toml").write_text(
        f'name = "{name}"\nversion = "1"\nlicence = "CC0-1.0"\nsource = "made up"\n{contributor}'
    )
    return folder


def _linears() -> dict[str, tuple[int, int]]:
    square = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    return square | {
        "mlp.gate_proj": (MLP, HIDDEN),
        "mlp.up_proj": (MLP, HIDDEN),
        "mlp.down_proj": (HIDDEN, MLP),
    }

"""One decoder for the Llama family: token ids in, logits out, over paged keys and values and grouped adapters. Schedules nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..lora.apply import LoraGroup, apply_lora
from .attention import AttentionGroup, attend
from .config import ModelConfig
from .layers import ROW_FLOOR, Linear, choose_linear_kernel, make_linear, pad_rows, rms_norm, rope_table, rotate, swiglu
from .weights import Weights

QKV, OUT, GATE_UP, DOWN = range(4)
"""The fused linears of a layer; a *site* is `layer * 4 + kind`."""


@dataclass(frozen=True)
class ForwardInput:
    """One step's rows, sorted by adapter. All index tensors are int64.

    tokens, positions, cells: [rows] (a cell is where in the pool the row's key and value go: page * page_tokens + offset).
    logit_rows: rows whose next-token logits are wanted, in the order they are returned.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    cells: torch.Tensor
    attention: list[AttentionGroup]
    lora: list[LoraGroup]
    logit_rows: torch.Tensor


@dataclass(frozen=True)
class Layer:
    """The weights of one layer, laid out for compute."""

    linears: tuple[Linear, Linear, Linear, Linear]
    input_norm: torch.Tensor
    post_norm: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None


class Decoder:
    """The base model on its device. `forward` is the only thing it does."""

    def __init__(self, weights: Weights, dtype: torch.dtype, context: int) -> None:
        self.config = weights.config
        self.dtype = dtype
        self.kernel = choose_linear_kernel(dtype)
        embedding = weights.read("model.embed_tokens.weight").to(dtype)
        head = embedding if self.config.tied_head else weights.read("lm_head.weight").to(dtype)
        self._embedding = embedding
        self._head = make_linear(head, None, self.kernel)
        self._final_norm = weights.read("model.norm.weight").float()
        self._layers = [_read_layer(weights, index, dtype, self.kernel) for index in range(self.config.layers)]
        self._cos, self._sin = rope_table(self.config.inverse_frequencies(), context, dtype)

    def forward(self, batch: ForwardInput, pool: torch.Tensor) -> torch.Tensor:
        """Logits [len(logit_rows), vocab] in the model's dtype; writes keys and values into `pool` [layers, 2 * kv_heads, pages, page_tokens, d]."""
        floor = ROW_FLOOR[self.dtype]
        hidden = pad_rows(self._embedding[batch.tokens].float(), floor)
        rotation = self._cos[batch.positions], self._sin[batch.positions]
        for index, layer in enumerate(self._layers):
            self._attention(layer, index, hidden, rotation, batch, pool[index])
            self._mlp(layer, index, hidden, batch)
        wanted = pad_rows(hidden[batch.logit_rows], floor)
        final = rms_norm(wanted, self._final_norm, self.config.norm_eps).to(self.dtype)
        return self._head(final)[: len(batch.logit_rows)]

    def _attention(
        self, layer: Layer, index: int, hidden: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], batch: ForwardInput, pool: torch.Tensor
    ) -> None:
        config, rows = self.config, len(batch.tokens)
        normed = rms_norm(hidden, layer.input_norm, config.norm_eps).to(self.dtype)
        qkv = layer.linears[QKV](normed)
        apply_lora(qkv, normed, index * 4 + QKV, batch.lora)
        heads = qkv[:rows].view(rows, -1, config.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            _norm_heads(heads, config, layer.q_norm, layer.k_norm)
        rotate(heads[:, : config.heads + config.kv_heads].view(rows, -1, 2, config.head_dim // 2), *rotation)
        pool.view(2 * config.kv_heads, -1, config.head_dim).index_copy_(1, batch.cells, heads[:, config.heads :].transpose(0, 1))
        mixed = self._mix(heads[:, : config.heads], pool, batch.attention, len(hidden))
        out = layer.linears[OUT](mixed)
        apply_lora(out, mixed, index * 4 + OUT, batch.lora)
        hidden.add_(out)

    def _mix(self, query: torch.Tensor, pool: torch.Tensor, groups: list[AttentionGroup], padded_rows: int) -> torch.Tensor:
        if len(groups) == 1 and groups[0].in_order:
            return pad_rows(attend(query, pool, groups[0]), padded_rows)
        mixed = query.new_zeros(padded_rows, query.shape[1] * query.shape[2])
        for group in groups:
            mixed.index_copy_(0, group.rows, attend(query.index_select(0, group.rows), pool, group))
        return mixed

    def _mlp(self, layer: Layer, index: int, hidden: torch.Tensor, batch: ForwardInput) -> None:
        normed = rms_norm(hidden, layer.post_norm, self.config.norm_eps).to(self.dtype)
        gate_up = layer.linears[GATE_UP](normed)
        apply_lora(gate_up, normed, index * 4 + GATE_UP, batch.lora)
        active = swiglu(gate_up)
        down = layer.linears[DOWN](active)
        apply_lora(down, active, index * 4 + DOWN, batch.lora)
        hidden.add_(down)


def _norm_heads(heads: torch.Tensor, config: ModelConfig, q_norm: torch.Tensor, k_norm: torch.Tensor) -> None:
    query, key = heads[:, : config.heads], heads[:, config.heads : config.heads + config.kv_heads]
    query.copy_(rms_norm(query.float(), q_norm, config.norm_eps))
    key.copy_(rms_norm(key.float(), k_norm, config.norm_eps))


def _read_layer(weights: Weights, index: int, dtype: torch.dtype, kernel: str) -> Layer:
    config, prefix = weights.config, f"model.layers.{index}."

    def norm(name: str) -> torch.Tensor:
        return weights.read(f"{prefix}{name}.weight").float()

    def linear(*names: str) -> Linear:
        weight = torch.cat([weights.read(f"{prefix}{name}.weight") for name in names]).to(dtype)
        biased = config.qkv_bias and names[0] == "self_attn.q_proj"
        bias = torch.cat([weights.read(f"{prefix}{name}.bias") for name in names]).to(dtype) if biased else None
        return make_linear(weight, bias, kernel)

    return Layer(
        linears=(
            linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            linear("self_attn.o_proj"),
            linear("mlp.gate_proj", "mlp.up_proj"),
            linear("mlp.down_proj"),
        ),
        input_norm=norm("input_layernorm"),
        post_norm=norm("post_attention_layernorm"),
        q_norm=norm("self_attn.q_norm") if config.qk_norm else None,
        k_norm=norm("self_attn.k_norm") if config.qk_norm else None,
    )

"""Mixes several adapters into one: their A one below the other, their B side by side, each scaled
by its weight, so that nothing behind this file knows of it.

`y = W x + Σ w_i B_i A_i x`, as PEFT's `add_weighted_adapter(combination_type="cat")`. What is no
sum of pairs is refused by name. Reads no file itself, and knows no slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import BadAdapter
from ..model.weights import Weights
from .adapter import Unpacked, load_adapter, read_adapter
from .adapter_config import MAX_RANK
from .ends import Ends
from .layout import PackedAdapter, PartWeights, pack
from .loader import Source, Sources

Weighted = tuple[Source, Unpacked]


def load_sources(
    sources: Sources, base: Weights, dtype: torch.dtype, room_bytes: int | None = None
) -> PackedAdapter:
    """Read, check and pack one adapter, or mix several, in `room_bytes` of memory.

    Raises BadAdapter naming the adapter, the field or tensor, and the mend.
    """
    [first, *others] = sources
    if not others and first.weight == 1.0:
        return load_adapter(first.config_path, first.weights_path, base, dtype, room_bytes)
    read: list[Weighted] = []
    for source in sources:
        try:
            one = read_adapter(source.config_path, source.weights_path, base, dtype, room_bytes)
        except BadAdapter as error:
            raise BadAdapter(f"{source.name}: {error}") from error
        _check_mixable(source.name, one)
        read.append((source, one))
        room_bytes = None if room_bytes is None else room_bytes - one.size_bytes
    parts = {key: _mix_part(key, read, dtype) for key in sorted(_keys(read))}
    return pack(base.config, parts, dtype, _mix_ends(read))


def _check_mixable(name: str, one: Unpacked) -> None:
    """Raise BadAdapter for what is no sum of pairs."""
    ends = one.ends or Ends()
    if one.config.dora:
        _refuse(name, "was trained with DoRA (use_dora), which scales the base's own product")
    if one.config.bias != "none" or one.config.lora_bias:
        _refuse(name, "has trained biases (bias, lora_bias)")
    if one.whole:
        _refuse(name, f"replaces {one.whole[0]} as a whole (modules_to_save)")
    # Nothing else leaves a gain or shift; a kind of adapter that is new here must not slip through.
    vectors = [vector for part in one.parts.values() for vector in (part.gain, part.shift)]
    if any(each is not None for each in (*vectors, ends.embedding_gain, ends.head_gain)):
        _refuse(name, "scales or shifts what the base gives")


def _refuse(name: str, why: str) -> None:
    raise BadAdapter(f"{name} cannot be mixed with others: it {why}; ask for it alone")


def _keys(read: Sequence[Weighted]) -> set[tuple[int, str]]:
    return {key for _, one in read for key in one.parts}


def _mix_part(key: tuple[int, str], read: Sequence[Weighted], dtype: torch.dtype) -> PartWeights:
    a, b = [], []
    for source, one in read:
        part = one.parts.get(key, PartWeights())
        if part.a is not None and part.b is not None:
            a.append(part.a)
            b.append(_scaled(part.b, source, dtype))
    if not a:
        return PartWeights()
    _check_rank(f"model.layers.{key[0]}.{key[1]}", sum(each.shape[-2] for each in a))
    return PartWeights(torch.cat(a, dim=-2), torch.cat(b, dim=-1))


def _mix_ends(read: Sequence[Weighted]) -> Ends | None:
    """Mix the pairs of embedding and head; what replaces rows of them must be the same in all."""
    ends = [(source, one.ends or Ends()) for source, one in read]
    _check_same_rows(ends)
    embedding = [
        (each.embedding_a, _scaled(each.embedding_b, source, torch.float32))
        for source, each in ends
        if each.embedding_a is not None and each.embedding_b is not None
    ]
    head = [
        (each.head_a, _scaled(each.head_b, source, torch.float32))
        for source, each in ends
        if each.head_a is not None and each.head_b is not None
    ]
    _check_rank("model.embed_tokens", sum(len(b) for _, b in embedding))
    _check_rank("lm_head", sum(len(b) for _, b in head))
    [(_, first), *_] = ends
    mixed = Ends(
        embedding_a=torch.cat([a for a, _ in embedding], dim=1) if embedding else None,
        embedding_b=torch.cat([b for _, b in embedding]) if embedding else None,
        head_a=torch.cat([a for a, _ in head], dim=1) if head else None,
        head_b=torch.cat([b for _, b in head]) if head else None,
        embedding_ids=first.embedding_ids,
        embedding_rows=first.embedding_rows,
        head_ids=first.head_ids,
        head_rows=first.head_rows,
    )
    return mixed if any(each is not None for each in mixed.tensors()) else None


def _check_same_rows(ends: Sequence[tuple[Source, Ends]]) -> None:
    [(_, first), *others] = ends
    for source, each in others:
        for end in ("embedding", "head"):
            if not all(
                _are_equal(getattr(first, name), getattr(each, name))
                for name in (f"{end}_ids", f"{end}_rows")
            ):
                _refuse(source.name, f"has other tokens, or another {end}, than the others")
    if any(each.head_shift is not None for _, each in ends):
        _refuse(ends[0][0].name, "shifts the head")


def _are_equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _scaled(b: torch.Tensor, source: Source, dtype: torch.dtype) -> torch.Tensor:
    scaled = b * source.weight
    if not torch.isfinite(scaled.to(dtype)).all():
        raise BadAdapter(f"{source.name} has numbers too large to be multiplied by its weight")
    return scaled


def _check_rank(module: str, rank: int) -> None:
    if rank > MAX_RANK:
        raise BadAdapter(
            f"the adapters have rank {rank} together in {module}; at most {MAX_RANK} is served: mix"
            " fewer"
        )

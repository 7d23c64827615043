"""The same adapter in another file has the same digest; another adapter has not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from node.catalogue.weighing import compare, weigh
from node.errors import AdapterError

from .peft_folders import Tensors, make_tensors, write_folder


def test_a_copy_in_another_type_shares_a_digest(tmp_path: Path) -> None:
    tensors = make_tensors(1)
    own = weigh(*write_folder(tmp_path / "own", tensors))
    brain = weigh(*write_folder(tmp_path / "brain", tensors, dtype="BF16"))
    half = weigh(*write_folder(tmp_path / "half", tensors, dtype="F16"))
    assert brain.brain == own.brain
    assert half.half == own.half
    back = weigh(*write_folder(tmp_path / "back", cast(tensors, np.float16)))
    assert back == half, "what was cast back is the cast"


def test_a_file_that_is_written_otherwise_is_the_same(tmp_path: Path) -> None:
    tensors = make_tensors(2)
    own = weigh(*write_folder(tmp_path / "own", tensors))
    turned = dict(reversed(tensors.items()))
    ways = [
        write_folder(tmp_path / "order", turned, metadata={"by": "somebody else"}),
        write_folder(tmp_path / "bare", tensors, prefix=""),
        write_folder(tmp_path / "named", tensors, suffix="default"),
        write_folder(tmp_path / "wrapped", tensors, prefix="base_model.model._orig_mod."),
        write_folder(tmp_path / "config", tensors, lora_dropout=0.3, base_model_name_or_path="x"),
        write_folder(tmp_path / "pattern", tensors, lora_alpha=1, alpha_pattern={".*_proj": 8}),
        write_folder(tmp_path / "root", tensors, use_rslora=True, lora_alpha=4),
    ]
    assert [weigh(*files) == own for files in ways] == [True] * len(ways)
    moved = [  # float16 is coarser where numbers are small, so only one of the digests follows
        write_folder(tmp_path / "scale", scaled(tensors, 0.5), lora_alpha=16),
        write_folder(tmp_path / "folded", scaled(tensors, 2), lora_alpha=4),
    ]
    assert [weigh(*files).brain == own.brain for files in moved] == [True, True]


def test_another_scale_or_setting_is_another_adapter(tmp_path: Path) -> None:
    tensors = make_tensors(3)
    own = weigh(*write_folder(tmp_path / "own", tensors))
    others = [
        write_folder(tmp_path / "alpha", tensors, lora_alpha=12),
        write_folder(tmp_path / "one", tensors, alpha_pattern={"q_proj": 9}),
        write_folder(tmp_path / "dora", tensors, use_dora=True),
        write_folder(tmp_path / "tied", tensors, ensure_weight_tying=True),
    ]
    digests = {weigh(*files).brain for files in others}
    assert len(digests | {own.brain}) == len(others) + 1


def test_what_is_trained_beside_the_pairs_counts(tmp_path: Path) -> None:
    tensors = make_tensors(4)
    norm = {"model.norm.weight": np.ones(16, np.float32)}
    bias = {"model.layers.0.self_attn.q_proj.lora_B.bias": np.ones(24, np.float32)}
    one = weigh(*write_folder(tmp_path / "one", tensors | norm))
    other = weigh(*write_folder(tmp_path / "other", tensors | scaled_all(norm, 2)))
    biased = weigh(*write_folder(tmp_path / "bias", tensors | bias, lora_bias=True))
    folded = write_folder(
        tmp_path / "folded", scaled(tensors | bias, 2), lora_bias=True, lora_alpha=4
    )
    assert one != other
    assert biased not in (one, other, weigh(*write_folder(tmp_path / "none", tensors)))
    assert weigh(*folded).brain == biased.brain


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    tensors = make_tensors(5)
    name = "model.layers.0.self_attn.q_proj.lora_B.weight"
    half = {other: tensor for other, tensor in tensors.items() if other != name}
    with pytest.raises(AdapterError, match="no other half"):
        weigh(*write_folder(tmp_path / "half", half))
    with pytest.raises(AdapterError, match="do not fit"):
        weigh(*write_folder(tmp_path / "unfit", tensors | {name: np.ones((24, 3), np.float32)}))
    with pytest.raises(AdapterError, match="two tensors"):
        twice = dict(tensors) | {f"_orig_mod.{name}": tensors[name]}
        weigh(*write_folder(tmp_path / "twice", twice))
    with pytest.raises(AdapterError, match="all experts"):
        experts = {
            other.replace("self_attn.q_proj", "mlp.experts"): tensor
            for other, tensor in tensors.items()
        }
        weigh(*write_folder(tmp_path / "experts", experts))
    config, weights = write_folder(tmp_path / "cut", tensors)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(AdapterError, match="outside"):
        weigh(config, weights)
    weights.write_bytes(b"\xff" * 100)
    with pytest.raises(AdapterError, match="no safetensors"):
        weigh(config, weights)
    with pytest.raises(AdapterError, match="cannot be compared"):
        compare((config, weights), write_folder(tmp_path / "own", tensors))


def test_a_turned_copy_is_found_by_likeness_alone(tmp_path: Path) -> None:
    tensors = make_tensors(6)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    turned = {
        name: (turn @ tensor if "lora_A" in name else tensor @ turn.T).astype(np.float32)
        for name, tensor in tensors.items()
    }
    own, copy = write_folder(tmp_path / "own", tensors), write_folder(tmp_path / "copy", turned)
    assert weigh(*own) != weigh(*copy)
    assert compare(own, copy).whole == pytest.approx(1, abs=1e-5)
    assert abs(compare(own, write_folder(tmp_path / "other", make_tensors(7))).whole) < 0.3


def cast(tensors: Tensors, dtype: type[np.floating]) -> Tensors:
    return {name: tensor.astype(dtype).astype(np.float32) for name, tensor in tensors.items()}


def scaled(tensors: Tensors, factor: float) -> Tensors:
    """Multiply the halves that the scale multiplies."""
    return {
        name: tensor * np.float32(factor if "lora_B" in name else 1)
        for name, tensor in tensors.items()
    }


def scaled_all(tensors: Tensors, factor: float) -> Tensors:
    return {name: tensor * np.float32(factor) for name, tensor in tensors.items()}
